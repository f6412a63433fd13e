// DNS over TCP (RFC 1035 section 4.2.2): each message behind its length in two bytes. Holds at most one message that is not
// complete, so that a peer who never finishes one costs 64 KiB and no more.
import { MeshError } from '../core/errors.ts'
import { headerBytes } from './message.ts'

const lengthBytes = 2

export class FrameReader {
  /** Of a length of two bytes, the first one. */
  #firstByte: number | undefined
  /** A message that is not complete, and how much of it is there. */
  #message: Buffer | undefined
  #filled = 0

  /** Whether a message has begun that is not complete. */
  get isPartial(): boolean {
    return this.#firstByte !== undefined || this.#message !== undefined
  }

  /** The messages that `chunk` completes, in order; they may share its memory. Throws BAD_MESSAGE for one too short to be one. */
  push(chunk: Buffer): Buffer[] {
    const messages: Buffer[] = []
    let at = 0
    while (at < chunk.length) {
      if (this.#message) {
        const count = chunk.copy(this.#message, this.#filled, at)
        at += count
        this.#filled += count
        if (this.#filled < this.#message.length) break
        messages.push(this.#message)
        this.#message = undefined
        continue
      }
      const byte = chunk.readUInt8(at++)
      if (this.#firstByte === undefined) {
        this.#firstByte = byte
        continue
      }
      const length = (this.#firstByte << 8) | byte
      this.#firstByte = undefined
      if (length < headerBytes) throw new MeshError('BAD_MESSAGE', `a DNS message of ${length} bytes`, { source: 'downstream' })
      if (at + length <= chunk.length) {
        messages.push(chunk.subarray(at, at + length))
        at += length
        continue
      }
      this.#message = Buffer.allocUnsafeSlow(length)
      this.#filled = 0
    }
    return messages
  }
}

/** The message with its length before it; at most 65,535 bytes. */
export function frameOf(message: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(lengthBytes + message.length)
  frame.writeUInt16BE(message.length, 0)
  frame.set(message, lengthBytes)
  return frame
}
