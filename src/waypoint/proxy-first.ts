// Takes the PROXY header off the begin of a connection, and leaves what follows in it. Waits for it a bounded time.
import type { Duplex } from 'node:stream'
import type { Clock } from '../core/clock.ts'
import { readProxyHeader } from './proxy-header.ts'
import type { ProxyHeader } from './proxy-header.ts'

export type ProxyFirst = Extract<ProxyHeader, { t: 'header' | 'none' | 'bad' }> | { readonly t: 'late' }

/** The stream is paused afterwards. `late`: neither a header nor anything else came in time, or it ended. Never rejects. */
export function takeProxyHeader(stream: Duplex, { clock, withinMs }: { readonly clock: Clock; readonly withinMs: number }): Promise<ProxyFirst> {
  return new Promise((resolve) => {
    let bytes: Buffer = Buffer.alloc(0)
    const finish = (found: ProxyFirst): void => {
      callOff()
      stream.off('readable', onReadable)
      stream.off('end', onEnd)
      stream.off('close', onEnd)
      const rest = bytes.subarray(found.t === 'header' ? found.length : 0)
      if (rest.length > 0 && !stream.destroyed && !stream.readableEnded) stream.unshift(rest)
      resolve(found)
    }
    const onReadable = (): void => {
      const chunk: unknown = stream.read()
      if (!Buffer.isBuffer(chunk)) return
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
      const found = readProxyHeader(bytes)
      if (found.t !== 'more') finish(found)
    }
    const onEnd = (): void => finish({ t: 'late' })
    const callOff = clock.after(withinMs, onEnd)
    stream.on('readable', onReadable)
    stream.on('end', onEnd)
    stream.on('close', onEnd)
    if (stream.destroyed || stream.readableEnded) onEnd()
  })
}
