// Programs of others, fetched and unpacked below build/ but never installed: no service starts, nothing of the host changes.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { MeshError } from '../../src/core/errors.ts'
import { mustRun, runCommand } from '../../src/local/command.ts'

const timeoutMs = 300_000

/** Fills `directory` in one step, so that a fetch that was interrupted leaves nothing half. Does nothing if it is there. */
export async function unpackOnce(directory: string, mayFetch: boolean, unpack: (into: string) => Promise<void>): Promise<void> {
  if (existsSync(directory)) return
  if (!mayFetch) throw new MeshError('NOT_FOUND', 'it has not been fetched yet')
  mkdirSync(dirname(directory), { recursive: true })
  const partial = mkdtempSync(`${directory}.`)
  try {
    await unpack(partial)
    // Somebody else may have been quicker, with the same.
    if (!existsSync(directory)) renameSync(partial, directory)
  } finally {
    rmSync(partial, { recursive: true, force: true })
  }
}

/** Of the Debian release that we run on, without what they depend on; their signatures are checked by apt. */
export async function unpackDebianPackages(packages: readonly string[], into: string): Promise<void> {
  // apt downloads into the current directory; the lists may be missing or old.
  const download = ['sh', '-c', 'cd "$0" && apt-get download -q "$@"', into, ...packages]
  if ((await runCommand(download, { timeoutMs })).code !== 0) {
    await mustRun(['apt-get', 'update', '-q'], { timeoutMs })
    await mustRun(download, { timeoutMs })
  }
  for (const name of readdirSync(into).filter((name) => name.endsWith('.deb'))) {
    await mustRun(['dpkg-deb', '-x', join(into, name), into])
    rmSync(join(into, name))
  }
}
