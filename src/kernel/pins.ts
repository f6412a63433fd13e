// Where an instance's maps and links are pinned, so that they outlive the process: <bpffs>/sidestep/<instance>/. The
// directory holds nothing else, and removing it releases everything in it.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../core/errors.ts'
import { parseMounts } from './host-facts.ts'
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'

const standardMount = '/sys/fs/bpf'

/** The mounted bpf file system; mounts one at its standard place where there is none, as systemd does at boot. */
export function bpfFileSystem(): string {
  const find = (): string | undefined => {
    const mounts = parseMounts(readFileSync('/proc/mounts', 'utf8')).filter(({ type }) => type === 'bpf')
    return (mounts.find(({ path }) => path === standardMount) ?? mounts[0])?.path
  }
  const found = find()
  if (found !== undefined) return found
  try {
    execFileSync('mount', ['-t', 'bpf', 'bpf', standardMount], { stdio: 'pipe' })
  } catch (cause) {
    throw new MeshError('KERNEL_UNSUPPORTED', `no bpf file system is mounted, and mounting one on ${standardMount} failed`, { cause })
  }
  return standardMount
}

export class Pins {
  readonly directory: string

  /** `instance` is a DNS label: bpffs refuses dots, and nothing may climb out of the directory. */
  constructor(instance: string, root = join(bpfFileSystem(), 'sidestep')) {
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(instance)) {
      throw new MeshError('BAD_CONFIG', `instance name ${JSON.stringify(instance)} is not a DNS label`)
    }
    this.directory = join(root, instance)
  }

  exists(): boolean {
    return existsSync(this.directory)
  }

  get(name: string): OwnedFd | undefined {
    return native().getPinned(join(this.directory, name))
  }

  /** Whether a link of that name is pinned and still attached to something. */
  isLinkInForce(name: string): boolean {
    const link = this.get(name)
    if (!link) return false
    try {
      return native().linkInfo(link).isAttached
    } finally {
      link.close()
    }
  }

  pin(object: OwnedFd, name: string): void {
    const path = join(this.directory, name)
    mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 })
    native().pin(object, path)
  }

  list(name: string): string[] {
    const path = join(this.directory, name)
    return existsSync(path) ? readdirSync(path) : []
  }

  remove(name: string): void {
    rmSync(join(this.directory, name), { force: true, recursive: true })
  }

  /** Releases everything pinned: hooks detach, maps go with their last user. */
  removeAll(): void {
    rmSync(this.directory, { force: true, recursive: true })
  }
}
