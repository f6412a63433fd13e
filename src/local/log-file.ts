// What a container writes, kept in one file of bounded size (and one before it). Positions count all bytes ever written,
// so a reader that follows survives rotation and learns when it was too slow.
import { closeSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs'

export class LogFile {
  readonly path: string
  readonly #maxBytes: number
  #fd: number | undefined
  #previousFd: number | undefined
  #previousStart = 0
  #start = 0
  #end = 0
  readonly #waiting = new Set<() => void>()

  constructor(path: string, maxBytes = 10 << 20) {
    this.path = path
    this.#maxBytes = maxBytes
    this.#fd = openSync(path, 'w+', 0o600)
  }

  get end(): number {
    return this.#end
  }

  get isClosed(): boolean {
    return this.#fd === undefined
  }

  /** Written before it returns, which is what slows down a container that writes faster than the disk. */
  append(chunk: Buffer): void {
    if (this.#fd === undefined) return
    if (this.#end - this.#start + chunk.length > this.#maxBytes && this.#end > this.#start) this.#rotate()
    this.#end += writeSync(this.#fd, chunk)
    this.#wake()
  }

  #rotate(): void {
    if (this.#previousFd !== undefined) closeSync(this.#previousFd)
    renameSync(this.path, `${this.path}.1`)
    this.#previousFd = this.#fd
    this.#previousStart = this.#start
    this.#start = this.#end
    this.#fd = openSync(this.path, 'w+', 0o600)
  }

  /** Bytes from a position on, at most `maxBytes`; `next` is where to go on. What was rotated away is skipped. */
  read(from: number, maxBytes = 64 << 10): { data: Buffer; next: number } {
    const oldest = this.#previousFd === undefined ? this.#start : this.#previousStart
    const position = Math.max(oldest, Math.min(from, this.#end))
    const isCurrent = position >= this.#start
    const fd = isCurrent ? this.#fd : this.#previousFd
    if (fd === undefined) return { data: Buffer.alloc(0), next: position }
    const available = (isCurrent ? this.#end : this.#start) - position
    const buffer = Buffer.allocUnsafe(Math.min(maxBytes, available))
    const got = buffer.length === 0 ? 0 : readSync(fd, buffer, 0, buffer.length, position - (isCurrent ? this.#start : this.#previousStart))
    return { data: buffer.subarray(0, got), next: position + got }
  }

  /** Position from which the last `count` lines begin (looking back at most 1 MiB). */
  tail(count: number): number {
    const from = Math.max(0, this.#end - (1 << 20))
    const parts: Buffer[] = []
    let position = from
    for (;;) {
      const { data, next } = this.read(position)
      if (data.length === 0) break
      parts.push(data)
      position = next
    }
    const all = Buffer.concat(parts)
    if (count === 0) return position
    let at = all.at(-1) === 0x0a ? all.length - 1 : all.length
    for (let left = count; left > 0 && at > 0; left--) at = all.lastIndexOf(0x0a, at - 1)
    return position - all.length + at + 1
  }

  /** Resolves when there is something beyond `from`, when the file was closed, or when `signal` aborts. */
  waitForMore(from: number, signal?: AbortSignal): Promise<void> {
    if (this.#end > from || this.isClosed || signal?.aborted) return Promise.resolve()
    return new Promise((resolve) => {
      const done = (): void => {
        this.#waiting.delete(done)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      this.#waiting.add(done)
      signal?.addEventListener('abort', done)
    })
  }

  #wake(): void {
    for (const done of this.#waiting) done()
  }

  /** No more is written or read; with `remove` the files go too. */
  close(remove: boolean): void {
    if (this.#fd === undefined) return
    closeSync(this.#fd)
    if (this.#previousFd !== undefined) closeSync(this.#previousFd)
    this.#fd = this.#previousFd = undefined
    if (remove) for (const path of [this.path, `${this.path}.1`]) rmSync(path, { force: true })
    this.#wake()
  }
}
