// The first bytes of a request's body, read ahead and given back, so that who forwards it finds all of it. Holds no more than
// asked for and one chunk.
import type { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'

export interface Peeked {
  /** At most so many as asked for. */
  readonly bytes: Buffer
  /** `bytes` is all of the body. */
  readonly isWhole: boolean
}

export interface PeekOptions {
  readonly clock: Clock
  readonly withinMs: number
}

/** Never rejects; what has not come in time is not waited for. Nobody else may read meanwhile. */
export function peekBody(body: Readable, count: number, { clock, withinMs }: PeekOptions): Promise<Peeked> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let length = 0
    let isDone = false
    const finish = (isEnded: boolean): void => {
      if (isDone) return
      isDone = true
      callOff()
      body.off('readable', onReadable)
      body.off('end', onEnd)
      body.off('error', onCut)
      body.off('close', onCut)
      const all = Buffer.concat(chunks)
      if (all.length > 0 && !body.destroyed && !body.readableEnded) body.unshift(all)
      resolve({ bytes: all.subarray(0, count), isWhole: isEnded && all.length <= count })
    }
    const onEnd = (): void => finish(true)
    const onCut = (): void => finish(false)
    const onReadable = (): void => {
      while (length <= count) {
        const chunk: unknown = body.read()
        if (!Buffer.isBuffer(chunk)) break
        chunks.push(chunk)
        length += chunk.length
      }
      // Bytes cannot be given back to a stream that has told its end; so it is asked before.
      if (isEnding(body)) finish(true)
      else if (length > count) finish(false)
    }
    const callOff = clock.after(withinMs, () => finish(false))
    body.on('readable', onReadable)
    body.on('end', onEnd)
    body.on('error', onCut)
    body.on('close', onCut)
    if (body.readableEnded) onEnd()
    else if (body.destroyed) onCut()
  })
}

/** Its end has come and lies behind what is buffered. Node keeps it to itself until the last byte is read. */
function isEnding(stream: Readable): boolean {
  const state: unknown = Reflect.get(stream, '_readableState')
  return typeof state === 'object' && state !== null && Reflect.get(state, 'ended') === true && !stream.readableEnded
}
