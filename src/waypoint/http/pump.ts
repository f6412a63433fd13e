// Carries a body from one stream to another at the speed of the slower, and two streams into each other after an upgrade. Says how it
// ended exactly once; what the end means is for the caller, which is why this is not stream.pipeline(): that destroys both.
import type { Duplex, Readable, Writable } from 'node:stream'
import { TLSSocket } from 'node:tls'

/** `done` without an error: all of `source` was given to `sink`, which is not ended. Nothing is left on `source` or `sink` afterwards. */
export function pump(source: Readable, sink: Writable, done: (error?: Error) => void): void {
  let isDone = false
  const finish = (error?: Error): void => {
    if (isDone) return
    isDone = true
    source.off('data', onData)
    source.off('end', onEnd)
    source.off('error', finish)
    source.off('close', onClose)
    sink.off('drain', onDrain)
    sink.off('close', onSinkClose)
    done(error)
  }
  const onData = (chunk: unknown): void => {
    if (!sink.write(chunk)) source.pause()
  }
  const onDrain = (): void => {
    source.resume()
  }
  const onEnd = (): void => finish()
  const onClose = (): void => finish(source.errored ?? new Error('closed before its end'))
  const onSinkClose = (): void => finish(sink.errored ?? new Error('nobody takes it any more'))
  source.on('data', onData)
  source.on('end', onEnd)
  source.on('error', finish)
  source.on('close', onClose)
  sink.on('drain', onDrain)
  sink.on('close', onSinkClose)
  if (source.readableEnded) finish()
  else if (source.destroyed) onClose()
  else if (sink.destroyed) onSinkClose()
}

/**
 * Joins two streams until both directions ended; half-close is passed on, a cut of one cuts the other as a reset. Resolves with what
 * each sent, which is in `sent` while it lasts.
 */
export function join(
  a: Duplex, b: Duplex, sent: { fromA: number; fromB: number } = { fromA: 0, fromB: 0 },
): Promise<{ readonly fromA: number; readonly fromB: number; readonly error?: Error }> {
  return new Promise((resolve) => {
    let open = 2
    let first: Error | undefined
    a.on('data', (chunk: Buffer) => (sent.fromA += chunk.length))
    b.on('data', (chunk: Buffer) => (sent.fromB += chunk.length))
    const carry = (from: Duplex, to: Duplex): void => {
      pump(from, to, (error) => {
        if (error) {
          first ??= error
          cut(a)
          cut(b)
        } else to.end()
        if (--open === 0) resolve({ ...sent, ...(first && { error: first }) })
      })
    }
    a.on('error', () => {
      // pump() sees it, and who comes after must not find the process ended.
    })
    b.on('error', () => {
      // As above.
    })
    carry(a, b)
    carry(b, a)
    // Who accepted or dialled them may have held them back until somebody takes what they say.
    a.resume()
    b.resume()
  })
}

/** Ends it so that its peer sees that this was not all: by a reset where it has one. TLS says it by an end without its last word. */
export function cut(stream: Duplex): void {
  if (!(stream instanceof TLSSocket) && 'resetAndDestroy' in stream && typeof stream.resetAndDestroy === 'function') stream.resetAndDestroy()
  else stream.destroy()
}
