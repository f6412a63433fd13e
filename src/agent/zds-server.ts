// Tells Istio's ztunnel which pods to serve, as Istio's own node agent does (ZDS): one message at a time, each answered, namespaces as
// descriptors. A ztunnel that comes is told everything; one that replaces another gets what is new, and deletions go to all. Whoever
// breaks the protocol, or does not answer, is cut off and may come again.
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { FdServer } from '../kernel/fd-socket.ts'
import type { FdSocket } from '../kernel/fd-socket.ts'
import { native } from '../kernel/native.ts'
import type { OwnedFd } from '../kernel/native.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { checkHello, decodeAck, encodeRequest, maxZdsBytes } from '../zds/message.ts'
import type { ZdsRequest } from '../zds/message.ts'
import type { CaptureState, Enrolments } from './enrolment-agent.ts'

export interface ZdsServerOptions {
  readonly path: string
  readonly logger: Logger
  /** After any pod's capture state changed, or a ztunnel came or went. */
  readonly onChange: () => void
  /** How long a greeting or an answer may take. */
  readonly answerMs?: number
  readonly retryMs?: number
}

interface Entry {
  pod: PodEnrolment
  fd: OwnedFd
  isCaptured: boolean
  because: string
  retry: NodeJS.Timeout | undefined
  waiters: (() => void)[]
}

interface Asked {
  readonly request: ZdsRequest
  readonly fd: OwnedFd | undefined
  readonly onAnswer: (error: string | undefined) => void
}

const maxConnections = 8
const maxAnswerBytes = 4_096
const gone = 'the ztunnel of its node is not connected'

/** One ztunnel: what is asked goes out one after the other, each when the one before is answered. */
class Connection {
  readonly #socket: FdSocket
  readonly #queue: Asked[] = []
  readonly #answerMs: number
  readonly #onEnd: (error: unknown) => void
  #asked: Asked | undefined
  #isGreeted = false
  #isClosed = false
  #timer: NodeJS.Timeout
  isSnapshotSent = false

  constructor(socket: FdSocket, answerMs: number, onGreeting: () => void, onEnd: (error: unknown) => void) {
    this.#socket = socket
    this.#answerMs = answerMs
    this.#onEnd = onEnd
    this.#timer = this.#await('no greeting')
    socket.start({
      onMessage: (bytes, fds) => {
        for (const fd of fds) fd.close()
        try {
          if (fds.length > 0) throw new MeshError('BAD_MESSAGE', 'the ztunnel sent a descriptor', { source: 'downstream' })
          if (this.#isGreeted) this.#onAnswer(decodeAck(bytes))
          else {
            checkHello(bytes)
            this.#isGreeted = true
            clearTimeout(this.#timer)
            onGreeting()
          }
        } catch (error) {
          this.end(error)
        }
      },
      onClose: (error) => this.end(error),
    })
  }

  get isGreeted(): boolean {
    return this.#isGreeted && !this.#isClosed
  }

  /** `onAnswer` is called once: with the answer (empty for yes), or undefined when the connection ends before. */
  ask(request: ZdsRequest, onAnswer: Asked['onAnswer'], fd?: OwnedFd): void {
    if (this.#isClosed) return onAnswer(undefined)
    // The queue may be long; the pod may be gone by the time.
    this.#queue.push({ request, fd: fd && native().duplicate(fd), onAnswer })
    this.#next()
  }

  #next(): void {
    if (this.#asked || this.#isClosed) return
    this.#asked = this.#queue.shift()
    if (!this.#asked) return
    const { request, fd } = this.#asked
    try {
      this.#socket.send(encodeRequest(request), fd ? [fd] : [])
      this.#timer = this.#await('no answer')
    } catch (error) {
      this.end(error)
    } finally {
      fd?.close()
    }
  }

  #await(what: string): NodeJS.Timeout {
    return setTimeout(() => this.end(new MeshError('BAD_MESSAGE', `the ztunnel sent ${what} in time`, { source: 'downstream' })), this.#answerMs)
  }

  #onAnswer(error: string): void {
    const asked = this.#asked
    if (!asked) throw new MeshError('BAD_MESSAGE', 'the ztunnel sent an answer to nothing', { source: 'downstream' })
    clearTimeout(this.#timer)
    this.#asked = undefined
    asked.onAnswer(error)
    this.#next()
  }

  end(error: unknown): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#socket.close()
    const left = [...(this.#asked ? [this.#asked] : []), ...this.#queue.splice(0)]
    this.#asked = undefined
    this.#onEnd(error)
    for (const { fd, onAnswer } of left) {
      fd?.close()
      onAnswer(undefined)
    }
  }
}

export class ZdsServer implements Enrolments {
  readonly #options: ZdsServerOptions
  readonly #entries = new Map<string, Entry>()
  /** In the order of their coming. */
  readonly #connections = new Set<Connection>()
  #unnamed: ReadonlySet<string> | undefined
  #server: FdServer | undefined
  #isClosed = false

  constructor(options: ZdsServerOptions) {
    this.#options = options
  }

  /** Throws what FdServer.listen() throws. */
  listen(): void {
    const { path } = this.#options
    this.#server = FdServer.listen({
      path, type: 'seqpacket', limits: { maxMessageBytes: maxAnswerBytes, maxFds: 4 }, onConnection: (socket) => this.#accept(socket),
    })
  }

  get isConnected(): boolean {
    return this.#latest() !== undefined
  }

  set(pod: PodEnrolment): void {
    const entry = this.#entries.get(pod.uid)
    if (entry?.pod.netns === pod.netns && entry.pod.serviceAccount === pod.serviceAccount) {
      // Modes, DNS and ports are not told in this protocol.
      entry.pod = pod
      return
    }
    let fd: OwnedFd
    try {
      fd = native().openPath(pod.netns)
    } catch (error) {
      this.#options.logger.warn({ 'pod.namespace': pod.namespace, 'pod.name': pod.name, because: describeError(error) }, 'namespace of a pod cannot be handed over')
      return
    }
    entry?.fd.close()
    clearTimeout(entry?.retry)
    const because = this.isConnected ? 'waiting for the ztunnel to capture it' : gone
    this.#entries.set(pod.uid, { pod, fd, isCaptured: false, because, retry: undefined, waiters: entry?.waiters ?? [] })
    this.#add(pod.uid)
    this.#options.onChange()
  }

  async remove(uid: string, timeoutMs = 2000): Promise<void> {
    const entry = this.#entries.get(uid)
    if (!entry) return
    this.#entries.delete(uid)
    clearTimeout(entry.retry)
    entry.fd.close()
    for (const wake of entry.waiters) wake()
    const answers = [...this.#connections].filter(({ isGreeted }) => isGreeted)
      .map((connection) => new Promise<void>((resolve) => connection.ask({ t: 'delete', uid }, () => resolve())))
    this.#options.onChange()
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)))
    await Promise.race([Promise.all(answers), tooLate])
    clearTimeout(timer)
  }

  repeat(uid: string): Promise<string | undefined> {
    return new Promise((resolve) => {
      const entry = this.#entries.get(uid)
      const latest = this.#latest()
      if (!entry) return resolve('it is not enrolled')
      if (!latest) return resolve(gone)
      latest.ask(addOf(entry.pod), (error) => resolve(error === '' ? undefined : error ?? gone), entry.fd)
    })
  }

  complete(unnamed: ReadonlySet<string>): void {
    const isFirst = this.#unnamed === undefined
    this.#unnamed = new Set(unnamed)
    // The protocol has one snapshot for each connection; later ones would end it.
    if (isFirst) for (const connection of this.#connections) this.#snapshot(connection)
  }

  stateOf(uid: string): CaptureState {
    const entry = this.#entries.get(uid)
    if (!entry) return { t: 'absent' }
    return entry.isCaptured ? { t: 'captured' } : { t: 'waiting', because: entry.because }
  }

  settled(uid: string): Promise<void> {
    const entry = this.#entries.get(uid)
    if (!entry || entry.isCaptured) return Promise.resolve()
    return new Promise((resolve) => entry.waiters.push(resolve))
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#server?.close()
    for (const connection of this.#connections) connection.end(undefined)
    for (const { fd, retry } of this.#entries.values()) {
      clearTimeout(retry)
      fd.close()
    }
    this.#entries.clear()
  }

  #latest(): Connection | undefined {
    return [...this.#connections].findLast(({ isGreeted }) => isGreeted)
  }

  #accept(socket: FdSocket): void {
    const { logger, onChange, answerMs = 30_000 } = this.#options
    if (this.#connections.size >= maxConnections || this.#isClosed) return socket.close()
    const connection: Connection = new Connection(socket, answerMs, () => {
      logger.info('ztunnel connected')
      for (const uid of this.#entries.keys()) this.#add(uid)
      this.#snapshot(connection)
      onChange()
    }, (error) => {
      this.#connections.delete(connection)
      logger.info({ because: error === undefined ? 'it ended the connection' : describeError(error) }, 'ztunnel disconnected')
      if (!this.#isClosed) onChange()
    })
    this.#connections.add(connection)
  }

  #snapshot(connection: Connection): void {
    if (!this.#unnamed || !connection.isGreeted || connection.isSnapshotSent) return
    connection.isSnapshotSent = true
    for (const uid of this.#unnamed) if (!this.#entries.has(uid)) connection.ask({ t: 'keep', uid }, () => {})
    connection.ask({ t: 'snapshot' }, () => {})
  }

  /** New pods are the newest ztunnel's: an older one is about to go. */
  #add(uid: string): void {
    const { logger, onChange, retryMs = 5_000 } = this.#options
    const entry = this.#entries.get(uid)
    const latest = this.#latest()
    if (!entry || !latest) return
    const { pod } = entry
    latest.ask(addOf(pod), (error) => {
      if (this.#entries.get(uid) !== entry) return
      if (error === '') return this.#onCaptured(entry)
      if (error === undefined) return // the next connection hears of it anew
      entry.because = `the ztunnel could not capture it: ${error}`
      logger.warn({ 'pod.namespace': pod.namespace, 'pod.name': pod.name, because: error }, 'pod is not captured, trying again')
      clearTimeout(entry.retry)
      entry.retry = setTimeout(() => this.#add(uid), retryMs)
      onChange()
    }, entry.fd)
  }

  #onCaptured(entry: Entry): void {
    if (entry.isCaptured) return
    entry.isCaptured = true
    for (const wake of entry.waiters.splice(0)) wake()
    this.#options.onChange()
  }
}

/** The longest names that Kubernetes has fit into a message. */
function addOf({ uid, namespace, name, serviceAccount }: PodEnrolment): ZdsRequest {
  const request: ZdsRequest = { t: 'add', uid, namespace, name, serviceAccount }
  if (encodeRequest(request).length > maxZdsBytes) throw new MeshError('BAD_MESSAGE', `the names of ${namespace}/${name} are too long to be told`)
  return request
}
