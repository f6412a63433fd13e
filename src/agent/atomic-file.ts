// Replaces a file at one stroke: whoever reads it sees the old or the new one, also after a loss of power. The directory is made
// where it is missing.
import { randomBytes } from 'node:crypto'
import { mkdir, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'

/** Ends in nothing that a container runtime takes for a network configuration. */
export const temporarySuffix = '.sidestep-tmp'

export interface FileOwner {
  readonly mode: number
  readonly uid?: number
  readonly gid?: number
}

/** `beforeRename` may throw to call it off. */
export async function writeAtomically(
  path: string, data: string | Buffer, owner: FileOwner, beforeRename?: () => Promise<void>,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  const made = `${path}.${randomBytes(4).toString('hex')}${temporarySuffix}`
  try {
    {
      await using file = await open(made, 'wx', 0o600)
      await file.writeFile(data)
      if (owner.uid !== undefined && owner.gid !== undefined) await file.chown(owner.uid, owner.gid)
      await file.chmod(owner.mode)
      await file.sync()
    }
    await beforeRename?.()
    await rename(made, path)
  } catch (error) {
    await rm(made, { force: true })
    throw error
  }
  await using directory = await open(dirname(path), 'r')
  await directory.sync()
}
