// The node agent's side of enrolment: tells the ztunnel of one node which pods to capture, and keeps what it answered.
// The ztunnel may come, go and come back at any time; what it captured stays captured (its hooks are pinned), so losing
// the connection changes no pod's state.
import { rmSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import type { Logger } from '../core/log.ts'
import { MeshError } from '../core/errors.ts'
import { decodeLines, encodeLine } from '../core/ndjson.ts'
import { agentReplySchema, type AgentMessage, type PodEnrolment } from '../model/enrolment.ts'

const maxLineBytes = 1 << 20
/** A ztunnel that takes no answers is cut off rather than written to for ever. */
const maxUnanswered = 10_000
const retryFirstMs = 500
const retryMaxMs = 10_000

/** `absent`: not enrolled. `waiting`: no answer yet, or the ztunnel could not (`because`). */
export type CaptureState =
  | { readonly t: 'absent' }
  | { readonly t: 'waiting'; readonly because: string }
  | { readonly t: 'captured' }

interface Entry {
  pod: PodEnrolment
  text: string
  isCaptured: boolean
  because: string
  failures: number
  retry: NodeJS.Timeout | undefined
  waiters: (() => void)[]
}

interface Connection {
  readonly socket: Socket
  readonly unanswered: { readonly seq: number; readonly onReply: (error: string | undefined) => void }[]
  seq: number
}

/** Of whoever carries pods' enrolments to a ztunnel: our protocol (EnrolmentAgent), or Istio's (ZdsServer). */
export interface Enrolments {
  /** A ztunnel is there. */
  readonly isConnected: boolean
  set(pod: PodEnrolment): void
  /** Un-enrols; resolves when a connected ztunnel has answered, at most `timeoutMs` later. */
  remove(uid: string, timeoutMs?: number): Promise<void>
  /** Enrols a pod once more, although nothing changed: what somebody undid meanwhile is put back. Resolves with the answer's error, if any. */
  repeat(uid: string): Promise<string | undefined>
  /**
   * All pods there are have been set, but for those of `unnamed`: wanted, with namespaces still to be found. Until this is called the
   * first time, no ztunnel drops any pod; may be called as often as there is something new.
   */
  complete(unnamed: ReadonlySet<string>): void
  stateOf(uid: string): CaptureState
  settled(uid: string): Promise<void>
  close(): Promise<void>
}

export interface EnrolmentAgentOptions {
  /** Says `snapshot` only once complete() was called; else each ztunnel is told so after what was set by then. */
  readonly awaitsComplete?: boolean
}

export class EnrolmentAgent implements Enrolments {
  readonly #path: string
  readonly #logger: Logger
  readonly #onChange: () => void
  readonly #entries = new Map<string, Entry>()
  readonly #connections = new Set<Connection>()
  #server: Server | undefined
  #isClosed = false
  /** Wanted pods without a namespace; undefined while not even that is known. */
  #unnamed: ReadonlySet<string> | undefined

  /** `onChange` is called after any pod's capture state changed, or a ztunnel came or went. */
  constructor(path: string, logger: Logger, onChange: () => void, { awaitsComplete = false }: EnrolmentAgentOptions = {}) {
    this.#path = path
    this.#logger = logger
    this.#onChange = onChange
    this.#unnamed = awaitsComplete ? undefined : new Set()
  }

  async listen(): Promise<void> {
    rmSync(this.#path, { force: true })
    const server = createServer((socket) => this.#accept(socket))
    this.#server = server
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(this.#path, resolve)
    })
  }

  get isConnected(): boolean {
    return this.#connections.size > 0
  }

  /** Enrols a pod, or tells what changed about it. Saying the same twice is free. */
  set(pod: PodEnrolment): void {
    const text = JSON.stringify(pod)
    const entry = this.#entries.get(pod.uid)
    if (entry?.text === text) return
    if (entry) {
      entry.pod = pod
      entry.text = text
      entry.failures = 0
      clearTimeout(entry.retry)
    } else {
      const because = this.isConnected ? 'waiting for the ztunnel to capture it' : 'the ztunnel of its node is not connected'
      this.#entries.set(pod.uid, { pod, text, isCaptured: false, because, failures: 0, retry: undefined, waiters: [] })
    }
    for (const connection of this.#connections) this.#sendAdd(connection, pod.uid)
    this.#onChange()
  }

  async repeat(uid: string): Promise<string | undefined> {
    const entry = this.#entries.get(uid)
    if (!entry) return 'it is not enrolled'
    const [connection] = [...this.#connections].slice(-1)
    if (!connection) return 'the ztunnel of its node is not connected'
    return await new Promise((resolve) => {
      const gone = (): void => resolve('the ztunnel went away')
      connection.socket.once('close', gone)
      this.#send(connection, (seq) => ({ type: 'add', seq, pod: entry.pod }), (error) => {
        connection.socket.off('close', gone)
        resolve(error)
      })
    })
  }

  complete(unnamed: ReadonlySet<string>): void {
    if (this.#unnamed !== undefined && this.#unnamed.symmetricDifference(unnamed).size === 0) return
    this.#unnamed = new Set(unnamed)
    for (const connection of this.#connections) this.#sendSnapshot(connection)
  }

  async remove(uid: string, timeoutMs = 2000): Promise<void> {
    const entry = this.#entries.get(uid)
    if (!entry) return
    this.#entries.delete(uid)
    clearTimeout(entry.retry)
    for (const wake of entry.waiters) wake()
    const answers = [...this.#connections].map((connection) => new Promise<void>((resolve) => {
      const done = (): void => {
        connection.socket.off('close', done)
        resolve()
      }
      this.#send(connection, (seq) => ({ type: 'delete', seq, uid }), (error) => {
        if (error !== undefined) this.#logger.warn({ 'pod.uid': uid, because: error }, 'ztunnel could not let go of a pod')
        done()
      })
      connection.socket.once('close', done)
    }))
    this.#onChange()
    let timer: NodeJS.Timeout | undefined
    const tooLate = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)))
    await Promise.race([Promise.all(answers), tooLate])
    clearTimeout(timer)
  }

  stateOf(uid: string): CaptureState {
    const entry = this.#entries.get(uid)
    if (!entry) return { t: 'absent' }
    return entry.isCaptured ? { t: 'captured' } : { t: 'waiting', because: entry.because }
  }

  /** Resolves once the pod is captured or no longer enrolled. */
  settled(uid: string): Promise<void> {
    const entry = this.#entries.get(uid)
    if (!entry || entry.isCaptured) return Promise.resolve()
    return new Promise((resolve) => entry.waiters.push(resolve))
  }

  async close(): Promise<void> {
    this.#isClosed = true
    for (const entry of this.#entries.values()) clearTimeout(entry.retry)
    for (const { socket } of this.#connections) socket.destroy()
    const server = this.#server
    if (server) await new Promise<void>((resolve) => server.close(() => resolve()))
  }

  #accept(socket: Socket): void {
    const connection: Connection = { socket, unanswered: [], seq: 0 }
    socket.setMaxListeners(0) // one waits for the end with each pod that is being let go, and many may go at once
    this.#connections.add(connection)
    this.#logger.info({ 'agent.socket': this.#path }, 'ztunnel connected')
    const cutOff = (error: MeshError): void => {
      this.#logger.warn({ code: error.code, because: error.message }, 'ztunnel connection cut off')
      socket.destroy()
    }
    socket.on('data', decodeLines(maxLineBytes, (value) => this.#onReply(connection, value, cutOff), cutOff))
    // 'close' follows and is where it is dealt with.
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#connections.delete(connection)
      this.#logger.info({ 'agent.socket': this.#path }, 'ztunnel disconnected')
      if (!this.#isClosed) this.#onChange()
    })
    for (const uid of this.#entries.keys()) this.#sendAdd(connection, uid)
    this.#sendSnapshot(connection)
    this.#onChange()
  }

  #sendSnapshot(connection: Connection): void {
    const unnamed = this.#unnamed
    if (!unnamed) return
    for (const uid of unnamed) this.#send(connection, (seq) => ({ type: 'keep', seq, uid }), () => {})
    this.#send(connection, (seq) => (unnamed.size > 0 ? { type: 'snapshot', seq, partial: true } : { type: 'snapshot', seq }), () => {})
  }

  #onReply(connection: Connection, value: unknown, cutOff: (error: MeshError) => void): void {
    const parsed = agentReplySchema.safeParse(value)
    const asked = connection.unanswered[0]
    if (!parsed.success || parsed.data.seq !== asked?.seq) {
      return cutOff(new MeshError('BAD_MESSAGE', parsed.success ? 'an answer out of order' : 'an answer of unknown shape', { source: 'downstream' }))
    }
    connection.unanswered.shift()
    if (parsed.data.existing) {
      this.#logger.info({ connections: parsed.data.existing }, 'connections made before enrolment are left alone')
    }
    asked.onReply(parsed.data.error)
  }

  #send(connection: Connection, message: (seq: number) => AgentMessage, onReply: (error: string | undefined) => void): void {
    if (connection.unanswered.length >= maxUnanswered) {
      connection.socket.destroy()
      return
    }
    const seq = ++connection.seq
    connection.unanswered.push({ seq, onReply })
    connection.socket.write(encodeLine(message(seq)))
  }

  #sendAdd(connection: Connection, uid: string): void {
    const entry = this.#entries.get(uid)
    if (!entry) return
    const { pod, text } = entry
    this.#send(connection, (seq) => ({ type: 'add', seq, pod }), (error) => {
      // Gone, or told anew since: this answer is about the past.
      if (this.#entries.get(uid) !== entry || entry.text !== text) return
      if (error === undefined) return this.#onCaptured(entry)
      entry.because = `the ztunnel could not capture it: ${error}`
      const waitMs = Math.min(retryMaxMs, retryFirstMs * 2 ** entry.failures++)
      this.#logger.warn({ 'pod.name': pod.name, 'pod.namespace': pod.namespace, because: error, waitMs }, 'pod is not captured, trying again')
      clearTimeout(entry.retry)
      entry.retry = setTimeout(() => {
        if (this.#connections.has(connection)) this.#sendAdd(connection, uid)
      }, waitMs)
      this.#onChange()
    })
  }

  #onCaptured(entry: Entry): void {
    entry.failures = 0
    if (entry.isCaptured) return
    entry.isCaptured = true
    for (const wake of entry.waiters.splice(0)) wake()
    this.#onChange()
  }
}
