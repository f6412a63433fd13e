// Watches a directory of YAML (or one file) and reads it again when it changes, after a moment of quiet. It only reads;
// what it finds goes to whoever asked. A directory that cannot be read is reported, and what was read before stays.
import { statSync, watch, type FSWatcher } from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { MeshError } from '../core/errors.ts'
import type { Problem } from '../model/manifest.ts'
import { maxManifestBytes, parseManifest, type ParsedManifest } from '../model/manifest-parse.ts'

const quietMs = 100
/** Somebody who never stops writing does not keep us from reading. */
const longestWaitMs = 1000
const pollMs = 1000
const maxFiles = 2000

export interface DirectoryReading {
  readonly files: ReadonlyMap<string, ParsedManifest>
  /** Set when the directory itself could not be read; `files` then says nothing. */
  readonly problem: Problem | undefined
}

function isManifest(name: string): boolean {
  return /\.(ya?ml|json)$/i.test(name) && !name.startsWith('.')
}

/** Reads all manifests directly in a directory, or the one file. Never throws. */
export async function readDirectory(path: string): Promise<DirectoryReading> {
  const files = new Map<string, ParsedManifest>()
  try {
    const info = await stat(path)
    const names = info.isDirectory() ? (await readdir(path)).filter(isManifest).sort() : [basename(path)]
    const base = info.isDirectory() ? path : dirname(path)
    if (names.length > maxFiles) return { files, problem: { file: path, line: 1, reason: `more than ${maxFiles} manifests in one directory` } }
    for (const name of names) {
      const parsed = await readManifest(base, name)
      if (parsed) files.set(name, parsed)
    }
    return { files, problem: undefined }
  } catch (error) {
    return { files, problem: { file: path, line: 1, reason: `cannot be read: ${error instanceof Error ? error.message : String(error)}` } }
  }
}

/** Undefined if it is gone or not a file. Reads no more than may be parsed, whatever the file is. */
async function readManifest(base: string, name: string): Promise<ParsedManifest | undefined> {
  const bad = (reason: string): ParsedManifest => ({ objects: [], notes: [], problems: [{ file: name, line: 1, reason }] })
  try {
    const path = join(base, name)
    // A pipe or device would block or never end.
    if (!(await stat(path)).isFile()) return undefined
    await using handle = await open(path, 'r')
    const buffer = Buffer.allocUnsafe(maxManifestBytes + 1)
    let sizeBytes = 0
    for (;;) {
      const { bytesRead } = await handle.read(buffer, sizeBytes, buffer.length - sizeBytes, sizeBytes)
      if (bytesRead === 0) break
      sizeBytes += bytesRead
      if (sizeBytes > maxManifestBytes) return bad(`the file is larger than ${maxManifestBytes} bytes`)
    }
    return parseManifest(buffer.toString('utf8', 0, sizeBytes), name)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    return bad(`cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
}

export class DirectoryWatcher {
  readonly #path: string
  readonly #onReading: (reading: DirectoryReading) => void
  #watcher: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  #poll: NodeJS.Timeout | undefined
  #firstEventAt: number | undefined
  #isReading = false
  #isStale = false
  #isClosed = false

  private constructor(path: string, onReading: (reading: DirectoryReading) => void) {
    this.#path = resolve(path)
    this.#onReading = onReading
  }

  /** Reads once (BAD_CONFIG if that fails) and then after every change. */
  static async start(path: string, onReading: (reading: DirectoryReading) => void): Promise<DirectoryWatcher> {
    const watcher = new DirectoryWatcher(path, onReading)
    watcher.#watch()
    const first = await readDirectory(watcher.#path)
    if (first.problem) {
      watcher.close()
      throw new MeshError('BAD_CONFIG', `${first.problem.file}: ${first.problem.reason}`)
    }
    onReading(first)
    return watcher
  }

  #watch(): void {
    try {
      // Editors replace files rather than write them, which a watch on the file itself would not survive.
      const watcher = watch(statSync(this.#path).isFile() ? dirname(this.#path) : this.#path, () => this.#onEvent())
      watcher.on('error', () => this.#pollInstead())
      this.#watcher = watcher
    } catch {
      // No inotify instance left, or the directory is gone: looking every second is the slower way to the same end.
      this.#pollInstead()
    }
  }

  #pollInstead(): void {
    this.#watcher?.close()
    this.#watcher = undefined
    this.#poll ??= setInterval(() => this.#onEvent(), pollMs)
  }

  #onEvent(): void {
    if (this.#isClosed) return
    const now = performance.now()
    this.#firstEventAt ??= now
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#read(), Math.max(0, Math.min(quietMs, this.#firstEventAt + longestWaitMs - now)))
  }

  async #read(): Promise<void> {
    this.#firstEventAt = undefined
    if (this.#isReading) {
      this.#isStale = true
      return
    }
    this.#isReading = true
    do {
      this.#isStale = false
      const reading = await readDirectory(this.#path)
      // A watched directory that was removed and made again has a new inode; the old watch would stay silent.
      if (reading.problem) this.#pollInstead()
      if (!this.#isClosed) this.#onReading(reading)
    } while (this.#isStale && !this.#isClosed)
    this.#isReading = false
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    clearInterval(this.#poll)
    this.#watcher?.close()
  }
}
