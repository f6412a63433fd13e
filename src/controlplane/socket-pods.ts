// Facts of run time from the unix socket of who runs the pods (model/running-pod.ts has the lines). While nobody answers there, what
// was told last stays true; a new connection tells all, and only what differs from before goes on.
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { decodeLines } from '../core/ndjson.ts'
import { factLineSchema, maxFactLineBytes, noRuntimeFacts } from '../model/running-pod.ts'
import type { FactLine, RunningPod, RuntimeFacts } from '../model/running-pod.ts'
import { Backoff } from '../core/backoff.ts'
import { tellDifference, type PodListener, type PodSource } from './pod-source.ts'

export interface SocketPodsOptions {
  readonly path: string
  readonly logger: Logger
  readonly backoff?: { readonly firstMs: number; readonly maxMs: number }
  /** Pods, and services, kept at most; a feed of more is not believed. */
  readonly maxFacts?: number
}

interface MutableFacts {
  readonly pods: Map<string, RunningPod>
  readonly serviceIps: Map<string, readonly string[]>
}

const defaultMaxFacts = 500_000

export class SocketPods implements PodSource {
  readonly #options: SocketPodsOptions
  readonly #backoff: Backoff
  #facts: MutableFacts = { pods: new Map(noRuntimeFacts.pods), serviceIps: new Map(noRuntimeFacts.serviceIps) }
  #listener: PodListener | undefined
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #isConnected = false
  #isClosed = false
  #onSynced: () => void = () => undefined

  constructor(options: SocketPodsOptions) {
    this.#options = options
    this.#backoff = new Backoff(options.backoff ?? { firstMs: 20, maxMs: 2_000 })
  }

  /** Whether a feed stands that has told all there is. */
  get isConnected(): boolean {
    return this.#isConnected
  }

  get facts(): RuntimeFacts {
    return this.#facts
  }

  /** Resolves when all there is was told once: to go on without would mean telling nodes that nothing runs. */
  start(listener: PodListener): Promise<void> {
    this.#listener = listener
    const synced = new Promise<void>((resolve) => (this.#onSynced = resolve))
    this.#connect()
    return synced
  }

  #connect(): void {
    const { path, logger } = this.#options
    const socket = connect(path)
    this.#socket = socket
    const feed = new Feed(this.#options.maxFacts ?? defaultMaxFacts)
    const cutOff = (error: MeshError): void => {
      logger.warn({ code: error.code, because: error.message, 'pods.socket': path }, 'feed of pods cannot be used')
      socket.destroy()
    }
    const onLine = (value: unknown): void => {
      if (socket.destroyed) return
      const parsed = factLineSchema.safeParse(value)
      if (!parsed.success) return cutOff(new MeshError('BAD_MESSAGE', 'a line of unknown shape', { source: 'downstream' }))
      try {
        this.#take(feed, parsed.data)
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        cutOff(error)
      }
    }
    socket.on('data', decodeLines(maxFactLineBytes, onLine, cutOff))
    socket.on('error', (error) => logger.debug({ 'pods.socket': path, because: error.message }, 'feed of pods failed'))
    socket.on('close', () => {
      if (this.#isConnected) logger.warn({ 'pods.socket': path }, 'nobody tells which pods run any more, what was told stays in force')
      this.#isConnected = false
      if (!this.#isClosed) this.#timer = setTimeout(() => this.#connect(), this.#backoff.next())
    })
  }

  #take(feed: Feed, line: FactLine): void {
    if (line.t !== 'synced') {
      feed.apply(line, feed.isSynced ? this.#listener : undefined)
      return
    }
    if (feed.isSynced) throw new MeshError('BAD_MESSAGE', 'a second end of the first telling', { source: 'downstream' })
    feed.isSynced = true
    const before = this.#facts
    this.#facts = feed.facts
    this.#isConnected = true
    this.#backoff.succeeded()
    this.#options.logger.info({ pods: feed.facts.pods.size, services: feed.facts.serviceIps.size }, 'feed of pods is connected')
    if (this.#listener) tellDifference(before, feed.facts, this.#listener)
    this.#onSynced()
  }

  close(): void {
    this.#isClosed = true
    this.#listener = undefined
    clearTimeout(this.#timer)
    this.#socket?.destroy()
  }
}

/** What one connection told. */
class Feed {
  readonly facts: MutableFacts = { pods: new Map(), serviceIps: new Map() }
  isSynced = false
  readonly #maxFacts: number

  constructor(maxFacts: number) {
    this.#maxFacts = maxFacts
  }

  apply(line: Exclude<FactLine, { t: 'synced' }>, listener: PodListener | undefined): void {
    const { pods, serviceIps } = this.facts
    if (line.t === 'pod') {
      pods.set(`${line.pod.namespace}/${line.pod.name}`, line.pod)
      if (pods.size > this.#maxFacts) throw new MeshError('BAD_MESSAGE', `more than ${this.#maxFacts} pods`, { source: 'downstream' })
      listener?.putPod(line.pod)
      return
    }
    const { namespace, name } = line
    switch (line.t) {
      case 'podGone':
        if (pods.delete(`${namespace}/${name}`)) listener?.removePod(namespace, name)
        return
      case 'serviceIps':
        serviceIps.set(`${namespace}/${name}`, line.ips)
        if (serviceIps.size > this.#maxFacts) throw new MeshError('BAD_MESSAGE', `more than ${this.#maxFacts} services`, { source: 'downstream' })
        listener?.setServiceIps(namespace, name, line.ips)
        return
      case 'serviceIpsGone':
        if (serviceIps.delete(`${namespace}/${name}`)) listener?.setServiceIps(namespace, name, undefined)
        return
      default:
        return line satisfies never
    }
  }
}
