// Newline-delimited JSON: one value a line, bounded, in both directions. Knows nothing of what the values mean. It never
// throws on what a peer sends: bad input is reported once per line and decoding goes on with the next line.
import { MeshError } from './errors.ts'

const newline = 0x0a

/** One line ready to be written. `value` must be JSON (undefined and functions have no spelling: TypeError). */
export function encodeLine(value: unknown): string {
  const text = JSON.stringify(value)
  if (text === undefined) throw new TypeError('value has no JSON spelling')
  return `${text}\n`
}

/**
 * Returns a function to be fed the chunks of a byte stream. Each complete line is parsed and handed to `onLine`; empty
 * lines are skipped. A line over `maxBytes`, or one that is not UTF-8 JSON, goes to `onError` as BAD_MESSAGE; the rest
 * of an overlong line is dropped without being kept, so memory stays within `maxBytes`. What follows the last newline
 * waits for more: a peer that closes in mid-line has not sent it.
 */
export function decodeLines(
  maxBytes: number,
  onLine: (value: unknown) => void,
  onError: (error: MeshError) => void,
): (chunk: Buffer) => void {
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  let held: Buffer[] = []
  let heldBytes = 0
  let isSkipping = false

  const keep = (part: Buffer): void => {
    if (isSkipping || part.length === 0) return
    if (heldBytes + part.length > maxBytes) {
      held = []
      heldBytes = 0
      isSkipping = true
      onError(new MeshError('BAD_MESSAGE', `a line is longer than ${maxBytes} bytes`, { source: 'downstream', detail: { maxBytes } }))
      return
    }
    held.push(part)
    heldBytes += part.length
  }

  const finish = (): void => {
    if (isSkipping) {
      isSkipping = false
      return
    }
    const line = held.length === 1 ? held[0] : Buffer.concat(held)
    held = []
    heldBytes = 0
    if (line === undefined || line.length === 0) return
    let value: unknown
    try {
      value = JSON.parse(utf8.decode(line))
    } catch (cause) {
      onError(new MeshError('BAD_MESSAGE', 'a line is not JSON', { source: 'downstream', detail: { sizeBytes: line.length }, cause }))
      return
    }
    onLine(value)
  }

  return (chunk) => {
    let start = 0
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      keep(chunk.subarray(start, end))
      finish()
      start = end + 1
    }
    // A copy, because the stream may reuse the chunk's memory and a short tail would pin all of it.
    if (start < chunk.length) keep(Buffer.from(chunk.subarray(start)))
  }
}
