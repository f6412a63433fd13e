// The connection to Istio's node agent (ZDS), which says which pods to capture: what AgentClient is for our own. Follows
// the wire of Istio's ztunnel, but where that one ends its process on a broken protocol, this one calls again: the pods
// stay as they are until a new snapshot.
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { FdSocket } from '../kernel/fd-socket.ts'
import type { OwnedFd } from '../kernel/native.ts'
import { Netns } from '../kernel/netns.ts'
import { podEnrolmentSchema } from '../model/enrolment.ts'
import type { FailureMode, PodEnrolment } from '../model/enrolment.ts'
import { decodeRequest, encodeAck, encodeHello, maxZdsBytes } from '../zds/message.ts'
import type { ZdsRequest } from '../zds/message.ts'

/** What is told of the pods; PodSet is one. */
export interface ZdsPods {
  add(pod: PodEnrolment): Promise<number>
  delete(uid: string): void
  prune(uids: ReadonlySet<string>): void
}

export interface ZdsClientOptions {
  readonly path: string
  readonly pods: ZdsPods
  readonly logger: Logger
  /** Of this node: what the agent's messages leave open. */
  readonly node: string
  readonly failureMode: FailureMode
  readonly dns: boolean
  /** Milliseconds until pods that could not be captured are tried again; 5,000 as Istio's unless told. */
  readonly retryPendingMs?: number
}

/** A pod of the agent whose capture failed, with its namespace held open. */
interface Pending {
  readonly request: ZdsRequest & { t: 'add' }
  readonly fd: OwnedFd
}

const firstRetryMs = 10
const maxRetryMs = 15_000
/** The agent waits for each answer; one that does not is broken. */
const maxUnanswered = 64

export class ZdsClient {
  readonly #options: ZdsClientOptions
  readonly #logger: Logger
  readonly #pending = new Map<string, Pending>()
  /** Handles one thing at a time: messages, in their order, and retries in between. */
  #work: Promise<void> = Promise.resolve()
  #socket: FdSocket | undefined
  /** Named since the connection was made; undefined once its snapshot is complete. */
  #named: Set<string> | undefined
  #retryMs = firstRetryMs
  #timer: NodeJS.Timeout | undefined
  #pendingTimer: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: ZdsClientOptions) {
    this.#options = options
    this.#logger = options.logger
  }

  /** Whether a snapshot was received over the standing connection. */
  get isSynced(): boolean {
    return this.#socket !== undefined && this.#named === undefined
  }

  /** Pods that the agent named and that are not captured. */
  get pending(): number {
    return this.#pending.size
  }

  /** Connected, told of all pods, and serving each. */
  get isReady(): boolean {
    return this.isSynced && this.#pending.size === 0
  }

  start(): void {
    let socket: FdSocket
    try {
      // A second descriptor is too many, and a longer message does not fit: either ends the connection.
      socket = FdSocket.connect(this.#options.path, 'seqpacket', { maxMessageBytes: maxZdsBytes, maxFds: 1 })
    } catch (error) {
      this.#logger.debug({ error: describeError(error) }, 'agent connection failed')
      this.#callAgain()
      return
    }
    this.#socket = socket
    this.#named = new Set()
    let unanswered = 0
    socket.start({
      onMessage: (bytes, fds) => {
        if (++unanswered > maxUnanswered) {
          this.#drop(socket, fds, new MeshError('BAD_MESSAGE', 'the node agent does not wait for answers', { source: 'upstream' }))
          return
        }
        this.#enqueue(async () => {
          await this.#receive(socket, bytes, fds)
          unanswered--
        })
      },
      onClose: (error) => {
        this.#logger.debug({ error: error && describeError(error) }, 'agent connection ended')
        this.#lost(socket)
      },
    })
    try {
      socket.send(encodeHello())
    } catch (error) {
      this.#drop(socket, [], error)
    }
  }

  #enqueue(step: () => Promise<void>): void {
    this.#work = this.#work.then(step).catch((error: unknown) => this.#logger.error({ error: describeError(error) }, 'agent message failed'))
  }

  async #receive(socket: FdSocket, bytes: Uint8Array, fds: readonly OwnedFd[]): Promise<void> {
    // Messages of a connection that is gone: the next one names every pod again.
    if (this.#socket !== socket) return closeAll(fds)
    let request: ZdsRequest
    try {
      request = decodeRequest(bytes, fds.length)
      this.#checkOrder(request)
    } catch (error) {
      return this.#drop(socket, fds, error)
    }
    let answer = ''
    try {
      await this.#handle(request, fds[0])
    } catch (error) {
      this.#logger.warn({ error: describeError(error), message: request.t }, 'agent message failed')
      answer = describeError(error)
    }
    if (this.#socket !== socket) return
    try {
      socket.send(encodeAck(answer))
    } catch (error) {
      this.#drop(socket, [], error)
    }
  }

  #checkOrder({ t }: ZdsRequest): void {
    if (this.#named || (t !== 'keep' && t !== 'snapshot')) return
    throw new MeshError('BAD_MESSAGE', `the node agent sent a ${t} after its snapshot`, { source: 'upstream' })
  }

  async #handle(request: ZdsRequest, fd: OwnedFd | undefined): Promise<void> {
    switch (request.t) {
      case 'add':
        this.#named?.add(request.uid)
        this.#forgetPending(request.uid)
        if (fd) await this.#add({ request, fd })
        return
      case 'keep':
        this.#named?.add(request.uid)
        return
      case 'delete':
        this.#forgetPending(request.uid)
        // During the snapshot it only takes the name back: what is not named goes with the snapshot's end.
        if (this.#named) this.#named.delete(request.uid)
        else this.#options.pods.delete(request.uid)
        return
      case 'snapshot': {
        const named = this.#named ?? new Set()
        for (const uid of this.#pending.keys()) if (!named.has(uid)) this.#forgetPending(uid)
        this.#options.pods.prune(named)
        this.#named = undefined
        this.#retryMs = firstRetryMs
        return
      }
      default:
        return request satisfies never
    }
  }

  /** Captures the pod, or keeps it pending, as it was during the attempt, and throws why. */
  async #add(pending: Pending): Promise<void> {
    const { request, fd } = pending
    try {
      await this.#options.pods.add(await this.#enrolment(request, fd))
    } catch (error) {
      if (this.#isClosed) {
        fd.close()
        return
      }
      this.#pending.set(request.uid, pending)
      this.#pendingTimer ??= setTimeout(() => this.#retryPending(), this.#options.retryPendingMs ?? 5_000)
      throw error
    }
    this.#pending.delete(request.uid)
    fd.close()
  }

  async #enrolment({ uid, namespace, name, serviceAccount }: Pending['request'], fd: OwnedFd): Promise<PodEnrolment> {
    const { node, failureMode, dns } = this.#options
    const path = `/proc/self/fd/${fd.fd}`
    const netns = await Netns.open(path)
    try {
      const ips = await netns.addresses()
      if (ips.length === 0) throw new MeshError('NOT_FOUND', `${namespace}/${name} has no address yet`)
      // Istio's agent does not tell probe ports: the kubelet's plaintext is then judged by policy like any other.
      return podEnrolmentSchema.parse({ uid, namespace, name, serviceAccount, node, netns: path, ips, failureMode, dns, probePorts: [] })
    } finally {
      netns.close()
    }
  }

  #retryPending(): void {
    this.#pendingTimer = undefined
    for (const [uid, pending] of this.#pending) {
      this.#enqueue(async () => {
        // Deleted, or named anew, in the meantime.
        if (this.#pending.get(uid) !== pending) return
        await this.#add(pending).catch((error: unknown) => this.#logger.warn({ error: describeError(error), 'pod.uid': uid }, 'pod is still not captured'))
      })
    }
  }

  #forgetPending(uid: string): void {
    this.#pending.get(uid)?.fd.close()
    this.#pending.delete(uid)
  }

  /** Ends a connection that broke the protocol. */
  #drop(socket: FdSocket, fds: readonly OwnedFd[], error: unknown): void {
    closeAll(fds)
    if (this.#socket !== socket) return
    this.#logger.warn({ error: describeError(error) }, 'agent connection dropped')
    socket.close()
    this.#lost(socket)
  }

  #lost(socket: FdSocket): void {
    if (this.#socket !== socket) return
    this.#socket = undefined
    this.#named = undefined
    this.#callAgain()
  }

  #callAgain(): void {
    if (this.#isClosed) return
    // At least half, so that an agent that hangs up at once is not called all the time; the rest so that not all call at once.
    this.#timer = setTimeout(() => this.start(), this.#retryMs * (0.5 + Math.random() / 2))
    this.#retryMs = Math.min(this.#retryMs * 2, maxRetryMs)
  }

  /** Ends the connection; the pods stay as they are. Resolves when nothing is under way any more. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    clearTimeout(this.#pendingTimer)
    this.#socket?.close()
    this.#socket = undefined
    await this.#work
    for (const uid of this.#pending.keys()) this.#forgetPending(uid)
  }
}

function closeAll(fds: readonly OwnedFd[]): void {
  for (const fd of fds) fd.close()
}
