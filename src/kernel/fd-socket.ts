// Unix sockets whose messages carry descriptors: how a node agent hands over namespaces, and a ztunnel its listeners.
// Nothing here waits. A descriptor that arrives is given to exactly one listener or closed; one that is sent stays its
// sender's, and what waits in the queue has a duplicate of its own.
import { lstatSync, renameSync, rmSync } from 'node:fs'
import { MeshError } from '../core/errors.ts'
import { native } from './native.ts'
import type { OwnedFd, UnixSocket } from './native.ts'

/** `seqpacket` keeps messages apart; `stream` gives bytes as they come, with the descriptors sent with the first of them. */
export type FdSocketType = 'seqpacket' | 'stream'

export interface FdSocketLimits {
  /** Longer messages end the connection; for a stream, the most given at once. 64 KiB unless told, 1 MiB at most. */
  readonly maxMessageBytes?: number
  /** Descriptors of one message; more end the connection. 16 unless told, 253 at most. */
  readonly maxFds?: number
  /** Bytes and messages that may wait for a peer that does not read; more end the connection. 1 MiB and 256 unless told. */
  readonly maxQueuedBytes?: number
  readonly maxQueuedMessages?: number
}

export interface FdSocketEvents {
  /** The descriptors are the listener's, who closes them. A message may be empty. */
  onMessage(bytes: Uint8Array, fds: readonly OwnedFd[]): void
  /** Once, unless close() came first. Undefined: the peer ended it. */
  onClose(error: MeshError | undefined): void
}

interface Waiting {
  readonly bytes: Uint8Array
  offset: number
  fds: OwnedFd[]
}

/** Messages read before others have their turn. */
const readBatch = 32
const acceptPauseMs = 100

export class FdSocket {
  readonly #socket: UnixSocket
  readonly #limits: Required<FdSocketLimits>
  #events: FdSocketEvents | undefined
  #queue: Waiting[] = []
  #queuedBytes = 0
  #reset: MeshError | undefined
  #isClosed = false

  /** Takes the connected descriptor over. Nothing is read before `start`. */
  constructor(fd: OwnedFd, limits: FdSocketLimits = {}) {
    this.#limits = { maxMessageBytes: 65_536, maxFds: 16, maxQueuedBytes: 1 << 20, maxQueuedMessages: 256, ...limits }
    try {
      this.#socket = new (native().UnixSocket)(fd, () => this.#ready())
    } catch (error) {
      fd.close()
      throw error
    }
  }

  /** Connected already, or throws CONNECT_*: a server whose queue is full (EAGAIN) included. */
  static connect(path: string, type: FdSocketType, limits?: FdSocketLimits): FdSocket {
    return new FdSocket(native().unixConnect(path, type === 'seqpacket'), limits)
  }

  /** Who is at the other end, as the kernel saw it connect or listen; nothing it could forge. */
  peer(): { pid: number; uid: number; gid: number } {
    return this.#socket.peer()
  }

  /** Begins to read. What a listener throws is uncaught, as in any event; the connection goes on. */
  start(events: FdSocketEvents): void {
    this.#events = events
    if (!this.#isClosed) this.#arm()
  }

  /**
   * Sends, or queues what the kernel does not take now. The descriptors may be closed when it returns. False where the
   * connection is closed. Throws what can never be sent (SYSCALL_FAILED: EMSGSIZE, a closed descriptor) and OVERLOADED
   * where too much waits for the peer.
   */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): boolean {
    if (this.#isClosed) return false
    const taken = this.#queue.length > 0 ? -1 : this.#try(bytes, 0, fds)
    if (taken === undefined || taken === bytes.length) return true
    this.#enqueue(bytes, Math.max(taken, 0), taken > 0 ? [] : fds)
    return true
  }

  #enqueue(bytes: Uint8Array, offset: number, fds: readonly OwnedFd[]): void {
    const { maxQueuedBytes, maxQueuedMessages } = this.#limits
    if (this.#queue.length >= maxQueuedMessages || this.#queuedBytes + bytes.length > maxQueuedBytes) {
      throw new MeshError('OVERLOADED', 'the peer of a unix socket does not read', { source: 'upstream', detail: { limit: 'queue' } })
    }
    const held: OwnedFd[] = []
    try {
      for (const fd of fds) held.push(native().duplicate(fd))
    } catch (error) {
      for (const fd of held) fd.close()
      throw error
    }
    this.#queue.push({ bytes: Uint8Array.from(bytes), offset, fds: held })
    this.#queuedBytes += bytes.length
    if (this.#events) this.#arm()
  }

  /** Bytes taken, -1 for none now; undefined where the peer has gone, which reading will tell in its place. */
  #try(bytes: Uint8Array, offset: number, fds: readonly OwnedFd[]): number | undefined {
    try {
      return this.#socket.send(bytes, offset, fds)
    } catch (error) {
      if (error instanceof MeshError && ['EPIPE', 'ECONNRESET'].includes(String(error.detail['errno']))) return undefined
      throw error
    }
  }

  #flush(): void {
    for (let first = this.#queue[0]; first; first = this.#queue[0]) {
      const taken = this.#try(first.bytes, first.offset, first.fds)
      if (taken === -1) return
      for (const fd of first.fds) fd.close()
      first.fds = []
      first.offset += taken ?? first.bytes.length
      if (first.offset < first.bytes.length) continue
      this.#queue.shift()
      this.#queuedBytes -= first.bytes.length
    }
  }

  #ready(): void {
    if (this.#isClosed) return
    if (!this.#events) return // told of a hang-up before anybody reads: start() asks again
    try {
      this.#flush()
      this.#read()
      // The listener may have closed it.
      if (!this.#isClosed) this.#arm()
    } catch (error) {
      this.#end(error instanceof MeshError ? error : new MeshError('SYSCALL_FAILED', 'reading a unix socket failed', { cause: error }))
    }
  }

  #read(): void {
    for (let i = 0; i < readBatch && !this.#isClosed; i++) {
      const message = this.#receive()
      if (message === undefined) return
      if (message === null) return this.#end(this.#reset)
      if (message.isTruncated) {
        return this.#end(new MeshError('BAD_MESSAGE', 'a message is too long, or has too many descriptors', { source: 'upstream' }))
      }
      this.#give(message.bytes, message.fds)
    }
  }

  #receive(): ReturnType<UnixSocket['receive']> {
    const { maxMessageBytes, maxFds } = this.#limits
    try {
      return this.#socket.receive(maxMessageBytes, maxFds)
    } catch (error) {
      // The peer ended without reading all: told once, and before what it sent.
      if (!(error instanceof MeshError) || error.detail['errno'] !== 'ECONNRESET' || this.#reset) throw error
      this.#reset = error
      return this.#socket.receive(maxMessageBytes, maxFds)
    }
  }

  /** Out of the way of our own errors: what the listener throws is not the connection's fault. */
  #give(bytes: Uint8Array, fds: OwnedFd[]): void {
    try {
      this.#events?.onMessage(bytes, fds)
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }

  #arm(): void {
    this.#socket.arm(this.#queue.length > 0)
  }

  #end(error: MeshError | undefined): void {
    if (this.#isClosed) return
    this.close()
    this.#events?.onClose(error)
  }

  /** At once; what waits is not sent. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const { fds } of this.#queue) for (const fd of fds) fd.close()
    this.#queue = []
    this.#queuedBytes = 0
    this.#socket.close()
  }
}

export interface FdServerOptions {
  readonly path: string
  readonly type: FdSocketType
  /** File mode of the socket; 0600 unless told. Who may write may connect. */
  readonly mode?: number
  readonly limits?: FdSocketLimits
  /** The socket's owner is the listener; it reads nothing before `start`. */
  readonly onConnection: (socket: FdSocket) => void
}

export class FdServer {
  readonly #path: string
  readonly #options: FdServerOptions
  readonly #socket: UnixSocket
  readonly #inode: bigint
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  private constructor(options: FdServerOptions, fd: OwnedFd) {
    this.#options = options
    this.#path = options.path
    this.#socket = new (native().UnixSocket)(fd, () => this.#accept())
    this.#inode = lstatSync(options.path, { bigint: true }).ino
    this.#socket.arm(false)
  }

  /**
   * Listens, in the place of whoever listened there: the new socket's file replaces the old one in one step, so that no
   * connect in between fails. Throws SYSCALL_FAILED, and BAD_CONFIG where the path is a file of another kind.
   */
  static listen(options: FdServerOptions): FdServer {
    const { path, type, mode = 0o600 } = options
    if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() === false) {
      throw new MeshError('BAD_CONFIG', `${path} exists and is not a socket`)
    }
    const beside = `${path}~`
    rmSync(beside, { force: true }) // of a process that ended between the next two lines
    const fd = native().unixListen(beside, type === 'seqpacket', mode)
    try {
      renameSync(beside, path)
      return new FdServer(options, fd)
    } catch (error) {
      fd.close()
      rmSync(beside, { force: true })
      throw error
    }
  }

  #accept(): void {
    if (this.#isClosed) return
    try {
      for (let i = 0; i < readBatch && !this.#isClosed; i++) {
        const fd = this.#socket.accept()
        if (!fd) break
        this.#give(new FdSocket(fd, this.#options.limits))
      }
    } catch {
      // No descriptors left: it would be ready again at once. The connections wait in the kernel's queue.
      this.#timer = setTimeout(() => this.#arm(), acceptPauseMs)
      return
    }
    this.#arm()
  }

  #give(socket: FdSocket): void {
    try {
      this.#options.onConnection(socket)
    } catch (error) {
      socket.close()
      queueMicrotask(() => {
        throw error
      })
    }
  }

  #arm(): void {
    if (!this.#isClosed) this.#socket.arm(false)
  }

  /** Listens no longer; connections go on. The file goes, unless a successor has put its own in the place. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#socket.close()
    if (lstatSync(this.#path, { bigint: true, throwIfNoEntry: false })?.ino === this.#inode) rmSync(this.#path, { force: true })
  }
}
