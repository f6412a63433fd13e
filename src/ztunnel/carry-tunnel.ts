// Carries bytes between a TCP socket and a tunnel's stream, with what carry.ts promises for two sockets: half-close stays
// half-close, a reset stays a reset, and what one side cannot take the other stops sending. Makes no buffer per read: V8
// counts their bytes and, at this rate, would collect its whole heap ten times a second.
import type { Socket } from 'node:net'
import type { TunnelStream } from '../hbone/tunnel-stream.ts'
import { abortSocket, readInto, sendAtOnce } from '../kernel/live-socket.ts'
import type { Carried, Carrying } from './carry.ts'
import { tellingFirst } from './first-bytes.ts'
import type { FirstBytes } from './first-bytes.ts'
import { forgetReset, watchForReset } from './reset-watch.ts'

/** Shared by all connections: what was read is copied before anything else is read. */
const buffer = Buffer.allocUnsafeSlow(256 * 1024)
/** Copies wait here to be used again; smaller ones come from Node's own pool, and are not worth the trouble. */
const spare: Buffer[] = []
const maxSpare = 32
const smallBytes = 8_192
/** Bytes of one connection that the tunnel may have without having sent them, before its socket is read no more. */
const maxUnsentBytes = 2 * buffer.length
/** Of all connections together: beyond it each may have what was read last and no more, in a buffer of that size. */
const maxUnsentOfAll = 64 * 1_048_576
let unsentOfAll = 0

/** Takes over both and leaves them closed; `sent` are the bytes from the socket to the tunnel. */
export function carryTunnel(given: Socket, tunnel: TunnelStream, told: FirstBytes = {}): Carrying {
  let unsentBytes = 0
  let isHeldBack = false
  const intoTunnel = (count: number): void => {
    const isLarge = count > smallBytes && unsentOfAll < maxUnsentOfAll
    const own = isLarge ? spare.pop() ?? Buffer.allocUnsafeSlow(buffer.length) : Buffer.allocUnsafe(count)
    buffer.copy(own, 0, 0, count)
    unsentBytes += count
    unsentOfAll += count
    if (unsentBytes >= maxUnsentBytes || unsentOfAll >= maxUnsentOfAll) {
      isHeldBack = true
      socket.pause()
    }
    tunnel.send(own.subarray(0, count), (error) => {
      if (isLarge && spare.length < maxSpare) spare.push(own)
      unsentBytes -= count
      unsentOfAll -= count
      if (!isHeldBack || (unsentBytes > 0 && (unsentBytes >= maxUnsentBytes || unsentOfAll >= maxUnsentOfAll))) return
      isHeldBack = false
      // An error closes the tunnel, and that resets the socket.
      if (!error && !socket.destroyed) socket.resume()
    })
  }
  const reading = readInto(buffer, given, tellingFirst(told.fromFirst, intoTunnel))
  if (reading?.early) told.fromFirst?.()
  const socket = reading?.socket ?? given
  const done = new Promise<Carried>((resolve) => {
    let because: Carried['because'] = 'finished'
    let open = 2
    const closed = (): void => {
      if (--open === 0) resolve({ sent: socket.bytesRead, received: tunnel.bytesRead, because })
    }
    const socketReset = (): void => {
      if (because === 'finished') because = 'resetByFirst'
      tunnel.resetAndDestroy()
    }
    const tunnelReset = (): void => {
      if (because === 'finished') because = 'resetBySecond'
      abortSocket(socket)
    }
    socket.on('end', () => tunnel.end())
    socket.on('error', socketReset)
    socket.on('close', () => {
      forgetReset(socket)
      closed()
    })
    watchForReset(socket, () => {
      socketReset()
      socket.destroy()
    })
    socket.on('drain', () => tunnel.takeMore())
    tunnel.on('end', () => socket.end())
    tunnel.on('error', tunnelReset)
    tunnel.on('close', closed)
    // An error or the end before we listened has closed it already.
    if (socket.destroyed) socketReset()
    if (socket.closed) closed()
    if (tunnel.destroyed) tunnelReset()
    if (tunnel.closed) closed()
    if (reading?.early) tunnel.send(Buffer.from(reading.early), () => {})
    if (!socket.destroyed) socket.resume()
    if (!tunnel.destroyed) tunnel.takeWith(tellingFirst(told.fromSecond, intoSocket(socket)))
  })
  return {
    done,
    counts: () => ({ sent: socket.bytesRead, received: tunnel.bytesRead }),
    cut: () => {
      tunnel.resetAndDestroy()
      abortSocket(socket)
    },
  }
}

/**
 * A small chunk leaves at once. A large one is most often one of several, because TLS hands out 16 KiB at a time: what comes
 * within one turn of the event loop leaves in one system call, and wakes the application once.
 */
function intoSocket(socket: Socket): (chunk: Buffer) => boolean {
  let isGathering = false
  const flush = (): void => {
    isGathering = false
    socket.uncork()
  }
  return (chunk) => {
    if (isGathering) return socket.write(chunk)
    const sent = chunk.length <= smallBytes && socket.writableLength === 0 ? sendAtOnce(socket, chunk, chunk.length) : 0
    if (sent === chunk.length) return true
    isGathering = true
    socket.cork()
    setImmediate(flush)
    return socket.write(chunk.subarray(sent))
  }
}
