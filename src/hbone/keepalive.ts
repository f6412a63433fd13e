// Finds out that a peer is gone without having said so: a ping every so often, and an end to the session that does not answer.
// Node sends no ping on a session that drains (either end sent GOAWAY), which may carry its streams for hours yet: there the
// keep-alive of TCP has to do.
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
    if (session.closed) {
      cancel = clock.after(pingIntervalMs, ping)
      return
    }
    cancel = clock.after(pingTimeoutMs, () => {
      if (!isStopped) onDead()
    })
    session.ping(() => {
      // With an error, too: the session drains or is destroyed, and the next look tells which.
      if (isStopped) return
      cancel()
      cancel = clock.after(pingIntervalMs, ping)
    })
  }
  return () => {
    isStopped = true
    cancel()
  }
}
