// Finds out that a peer is gone without having said so: a ping every so often, and an end to the session that does not answer.
import type { Http2Session } from 'node:http2'
import type { Clock } from '../core/clock.ts'

/**
 * `onDead` is called at most once. The session may have destroyed itself by then without a word: where nghttp2 finds an error while
 * Node has bytes to write, neither 'error' nor 'close' comes, and the connection below would stay for ever. Returns how to stop.
 */
export function keepAlive(
  session: Http2Session,
  clock: Clock,
  { pingIntervalMs, pingTimeoutMs }: { readonly pingIntervalMs: number; readonly pingTimeoutMs: number },
  onDead: () => void,
): () => void {
  let isStopped = false
  let cancel = clock.after(pingIntervalMs, ping)
  function ping(): void {
    if (isStopped) return
    if (session.destroyed) {
      onDead()
      return
    }
    cancel = clock.after(pingTimeoutMs, () => {
      if (!isStopped) onDead()
    })
    session.ping((error) => {
      // An error means that the session is being destroyed: then stop() comes.
      if (error || isStopped) return
      cancel()
      cancel = clock.after(pingIntervalMs, ping)
    })
  }
  return () => {
    isStopped = true
    cancel()
  }
}
