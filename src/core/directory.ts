// Watches a directory (or one file) and reads it again when it changes, after a moment of quiet. What the files mean is
// for the parser that it is given; a file that did not change is not read again. A directory that cannot be read is
// reported, and it is for the listener to keep what was read before.
import { statSync, watch, type BigIntStats, type FSWatcher } from 'node:fs'
import { open, readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { MeshError } from './errors.ts'

const quietMs = 100
/** Somebody who never stops writing does not keep us from reading. */
const longestWaitMs = 1000
const pollMs = 1000
const maxFiles = 2000
/** A file written within a clock tick of our reading could change again without its times showing it. */
const settledMs = 100

/** How a directory's files are told apart and understood. */
export interface FileFormat<T> {
  /** By name, without directory. Hidden files are never read. */
  readonly matches: RegExp
  readonly maxBytes: number
  /** Must not throw. */
  parse(text: string, name: string): T
  /** What stands for a file that cannot be read, or is too large. */
  unreadable(name: string, reason: string): T
}

export interface DirectoryReading<T> {
  readonly files: ReadonlyMap<string, T>
  /** Set when the directory itself could not be read; `files` then says nothing. */
  readonly problem: { readonly file: string; readonly line: number; readonly reason: string } | undefined
}

interface Remembered<T> {
  /** Inode, size and times; empty if the next reading must look again. */
  readonly stamp: string
  readonly value: T
}
type Memory<T> = Map<string, Remembered<T>>

function because(error: unknown): string {
  return `cannot be read: ${error instanceof Error ? error.message : String(error)}`
}

/** Reads all matching files directly in a directory, or the one file. Never throws. */
export async function readDirectory<T>(path: string, format: FileFormat<T>, memory: Memory<T> = new Map()): Promise<DirectoryReading<T>> {
  const files = new Map<string, T>()
  try {
    const info = await stat(path)
    const isListed = (name: string): boolean => format.matches.test(name) && !name.startsWith('.')
    const names = info.isDirectory() ? (await readdir(path)).filter(isListed).sort() : [basename(path)]
    const base = info.isDirectory() ? path : dirname(path)
    if (names.length > maxFiles) return { files, problem: { file: path, line: 1, reason: `more than ${maxFiles} manifests in one directory` } }
    for (const name of names) {
      const found = await readOne(base, name, format, memory.get(name))
      if (!found) continue
      memory.set(name, found)
      files.set(name, found.value)
    }
    for (const name of memory.keys()) if (!files.has(name)) memory.delete(name)
    return { files, problem: undefined }
  } catch (error) {
    return { files, problem: { file: path, line: 1, reason: because(error) } }
  }
}

function stampOf(info: BigIntStats): string {
  const isSettled = Date.now() - Number(info.ctimeMs) > settledMs
  return isSettled ? `${info.dev} ${info.ino} ${info.size} ${info.mtimeNs} ${info.ctimeNs}` : ''
}

/** Undefined if it is gone or not a file. Reads no more than may be parsed, whatever the file is. */
async function readOne<T>(base: string, name: string, format: FileFormat<T>, last: Remembered<T> | undefined): Promise<Remembered<T> | undefined> {
  try {
    const path = join(base, name)
    const info = await stat(path, { bigint: true })
    // A pipe or device would block or never end.
    if (!info.isFile()) return undefined
    const stamp = stampOf(info)
    if (last && stamp !== '' && last.stamp === stamp) return last
    await using handle = await open(path, 'r')
    // One byte more than it has, to see that this is all. With the most that it may have, a thousand files cost a gigabyte.
    let buffer = Buffer.allocUnsafe(Math.min(format.maxBytes, Number(info.size)) + 1)
    let sizeBytes = 0
    for (;;) {
      if (sizeBytes === buffer.length) buffer = Buffer.concat([buffer], Math.min(format.maxBytes + 1, 2 * buffer.length))
      const { bytesRead } = await handle.read(buffer, sizeBytes, buffer.length - sizeBytes, sizeBytes)
      if (bytesRead === 0) break
      sizeBytes += bytesRead
      if (sizeBytes > format.maxBytes) return { stamp, value: format.unreadable(name, `the file is larger than ${format.maxBytes} bytes`) }
    }
    return { stamp, value: format.parse(buffer.toString('utf8', 0, sizeBytes), name) }
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    return { stamp: '', value: format.unreadable(name, because(error)) }
  }
}

export class DirectoryWatcher<T> {
  readonly #path: string
  readonly #format: FileFormat<T>
  readonly #memory: Memory<T> = new Map()
  readonly #onReading: (reading: DirectoryReading<T>) => void
  #watcher: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  #poll: NodeJS.Timeout | undefined
  #firstEventAt: number | undefined
  #isReading = false
  #isStale = false
  #isClosed = false

  private constructor(path: string, format: FileFormat<T>, onReading: (reading: DirectoryReading<T>) => void) {
    this.#path = resolve(path)
    this.#format = format
    this.#onReading = onReading
  }

  /** Reads once (BAD_CONFIG if that fails) and then after every change. */
  static async start<T>(path: string, format: FileFormat<T>, onReading: (reading: DirectoryReading<T>) => void): Promise<DirectoryWatcher<T>> {
    const watcher = new DirectoryWatcher(path, format, onReading)
    watcher.#watch()
    const first = await readDirectory(watcher.#path, format, watcher.#memory)
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
      const reading = await readDirectory(this.#path, this.#format, this.#memory)
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
