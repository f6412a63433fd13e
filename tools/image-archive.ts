// Writes container images from directories, without a daemon and without a base image: an archive as `docker save` makes it, which
// `ctr images import`, `docker load` and `podman load` read. The same directories give the same bytes. It must never run anything that
// is in the image.
import { createHash } from 'node:crypto'
import { createReadStream, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { mustRun } from '../src/local/command.ts'

export interface ImageWish {
  /** `registry/name:tag`; several if it shall have several names. */
  readonly references: readonly string[]
  /** Directories that become `/` one over the other, lowest first. What changes seldom goes lowest: runtimes keep layers. */
  readonly layers: readonly string[]
  readonly entrypoint?: readonly string[]
  readonly command?: readonly string[]
  /** `NAME=value`. */
  readonly env?: readonly string[]
  /** `UID` or `UID:GID`. */
  readonly user?: string
  readonly workingDirectory?: string
  readonly labels?: Readonly<Record<string, string>>
}

const timeoutMs = 300_000
/** All that could differ between two runs is said: order, times, owners. */
const sameBytes = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--format=gnu']
const path = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Writes the archive to `file` in one step and returns the image's id (`sha256:...`). COMMAND_FAILED if tar fails. */
export async function writeImageArchive(file: string, wish: ImageWish): Promise<string> {
  mkdirSync(dirname(file), { recursive: true })
  const scratch = mkdtempSync(`${file}.`)
  try {
    const layers: string[] = []
    for (const [index, directory] of wish.layers.entries()) layers.push(await writeLayer(directory, join(scratch, `layer-${index}.tar`)))
    const config = JSON.stringify(imageConfig(wish, layers))
    const id = createHash('sha256').update(config).digest('hex')
    writeFileSync(join(scratch, `${id}.json`), config)
    writeFileSync(join(scratch, 'manifest.json'), JSON.stringify([{ Config: `${id}.json`, RepoTags: wish.references, Layers: layers.map((_, index) => `layer-${index}.tar`) }]))
    await mustRun(['tar', ...sameBytes, '--remove-files', '--exclude=./image.tar', '-cf', join(scratch, 'image.tar'), '-C', scratch, ...layers.map((_, index) => `layer-${index}.tar`), `${id}.json`, 'manifest.json'], { timeoutMs })
    renameSync(join(scratch, 'image.tar'), file)
    return `sha256:${id}`
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function imageConfig(wish: ImageWish, layers: readonly string[]): Record<string, unknown> {
  const hasPath = wish.env?.some((each) => each.startsWith('PATH=')) === true
  return {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    created: '1970-01-01T00:00:00Z',
    config: {
      Env: hasPath ? wish.env : [path, ...wish.env ?? []],
      WorkingDir: wish.workingDirectory ?? '/',
      ...(wish.entrypoint ? { Entrypoint: wish.entrypoint } : {}),
      ...(wish.command ? { Cmd: wish.command } : {}),
      ...(wish.user === undefined ? {} : { User: wish.user }),
      ...(wish.labels ? { Labels: wish.labels } : {}),
    },
    rootfs: { type: 'layers', diff_ids: layers.map((digest) => `sha256:${digest}`) },
    history: layers.map(() => ({ created: '1970-01-01T00:00:00Z' })),
  }
}

async function writeLayer(directory: string, file: string): Promise<string> {
  await mustRun(['tar', ...sameBytes, '-cf', file, '-C', directory, '.'], { timeoutMs })
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}
