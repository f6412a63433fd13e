// Files of an image before they are packed: where they come from and where they go. Writes them below a directory, with modes that
// do not depend on who builds or on their umask.
import { chmodSync, copyFileSync, existsSync, lstatSync, mkdirSync, readdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** Something in an image; `path` is absolute there. A file's mode is 0o644 unless told. */
export type Entry =
  | { readonly path: string; readonly directory: true; readonly mode?: number }
  | { readonly path: string; readonly link: string }
  | { readonly path: string; readonly content: string; readonly mode?: number }
  | { readonly path: string; readonly from: string; readonly mode?: number }

/** The files below `directory`, as they would be below `at` in an image. Directories that hold none are left out. */
export function entriesOf(directory: string, at: string, wanted: (path: string) => boolean = () => true): Entry[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((found): Entry[] => {
    const [from, path] = [join(directory, found.name), join(at, found.name)]
    if (found.isDirectory()) return entriesOf(from, path, wanted)
    if (!wanted(from)) return []
    if (found.isSymbolicLink()) return [{ path, link: readlinkSync(from) }]
    return found.isFile() ? [{ path, from, mode: (lstatSync(from).mode & 0o100) === 0 ? 0o644 : 0o755 }] : []
  })
}

/** Makes `root` what the entries say. */
export function writeEntries(root: string, entries: readonly Entry[]): void {
  makeDirectory(root)
  for (const entry of entries) {
    const path = join(root, entry.path)
    makeDirectory(dirname(path))
    if ('directory' in entry) makeDirectory(path, entry.mode)
    else if ('link' in entry) symlinkSync(entry.link, path)
    else {
      if ('from' in entry) copyFileSync(entry.from, path)
      else writeFileSync(path, entry.content)
      chmodSync(path, entry.mode ?? 0o644)
    }
  }
}

function makeDirectory(path: string, mode = 0o755): void {
  if (!existsSync(path)) {
    if (dirname(path) !== path) makeDirectory(dirname(path))
    mkdirSync(path)
    chmodSync(path, mode)
  } else if (mode !== 0o755) chmodSync(path, mode)
}
