// Throws an answer away that nobody will get, without throwing its connection away where the rest is short and comes soon.
import type { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'

const mostBytes = 65_536
const longestMs = 1_000

/** `done` when nothing more will come. */
export function discardAnswer(body: Readable | undefined, clock: Clock, done: () => void): void {
  if (!body || body.closed) {
    done()
    return
  }
  let bytes = 0
  const callOff = clock.after(longestMs, () => body.destroy())
  body.on('data', (chunk: Buffer) => {
    bytes += chunk.length
    if (bytes > mostBytes) body.destroy()
  })
  body.once('close', () => {
    callOff()
    done()
  })
}
