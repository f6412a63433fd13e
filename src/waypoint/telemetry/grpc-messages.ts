// Counts the messages of a gRPC body as it passes: five bytes of prefix, of which four are a length, then that many bytes. Keeps and
// changes nothing; a body that is not framed so makes a wrong count and no harm.
export class GrpcMessages {
  #count = 0
  /** Of the message that is passing. */
  #left = 0
  /** Bytes of the prefix seen, and its length so far. */
  #prefix = 0
  #length = 0

  /** Messages of which the prefix has passed. */
  get count(): number {
    return this.#count
  }

  add(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length) {
      if (this.#left > 0) {
        const skipped = Math.min(this.#left, chunk.length - at)
        this.#left -= skipped
        at += skipped
        continue
      }
      // The first byte says whether it is compressed.
      if (this.#prefix > 0) this.#length = this.#length * 256 + (chunk[at] ?? 0)
      at++
      if (++this.#prefix === 5) {
        this.#count++
        this.#left = this.#length
        this.#prefix = 0
        this.#length = 0
      }
    }
  }
}
