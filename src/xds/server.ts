// The control plane's side of discovery: publishes an XdsStore to all nodes that are let in. Each node gets what differs from
// what it has, in its own time; a slow one holds back nobody and costs no more than one push in flight per type. It adds
// itself to a grpc-js server made by others, because the certificate service shares the port.
import { fromBinary } from '@bufbuild/protobuf'
import type { JsonObject } from '@bufbuild/protobuf'
import type { Server } from '@grpc/grpc-js'
import { status as grpcStatus } from '@grpc/grpc-js'
import { describeError } from '../core/errors.ts'
import { deltaMethod } from './client.ts'
import { DeltaDiscoveryRequestSchema } from '../proto/discovery_pb.ts'
import type { DeltaDiscoveryRequest } from '../proto/discovery_pb.ts'
import { Debounce } from './debounce.ts'
import { NodeRecords, noType, statusOf } from './node-records.ts'
import type { NodeRecord, NodeStatus } from './node-records.ts'
import { NodeStream } from './node-stream.ts'
import type { StreamContext, XdsCall } from './node-stream.ts'
import { resourceTypes } from './resource-types.ts'
import type { ResourceType } from './resource-types.ts'
import { serverDefaults } from './server-options.ts'
import type { Admission, Admitted, XdsLimits, XdsServerOptions } from './server-options.ts'
import type { XdsStore } from './store.ts'

const refusalCodes = { unauthenticated: grpcStatus.UNAUTHENTICATED, permissionDenied: grpcStatus.PERMISSION_DENIED } as const

// Encoding pushes for so many nodes takes some milliseconds; then others get their turn.
const nodesAtOnce = 20

export class XdsServer {
  readonly #options: XdsServerOptions
  readonly #store: XdsStore
  readonly #limits: XdsLimits
  readonly #context: StreamContext
  readonly #records: NodeRecords
  readonly #debounce: Debounce
  readonly #streams = new Map<NodeRecord, Set<NodeStream>>()
  readonly #open = new Set<XdsCall>()
  /** Let in, but nothing asked for yet. */
  readonly #silent = new Map<XdsCall, string>()
  #isClosed = false
  #isPushing = false
  #pushAgain = false

  constructor(store: XdsStore, options: XdsServerOptions) {
    const { debounceMs = serverDefaults.debounceMs, maxDebounceMs = serverDefaults.maxDebounceMs } = options
    this.#options = options
    this.#store = store
    this.#limits = { ...serverDefaults.limits, ...options.limits }
    this.#context = { store, limits: this.#limits, orderMs: debounceMs, onPush: options.onPush }
    this.#records = new NodeRecords(this.#limits.nodes, this.#limits.keepNodeMs)
    this.#debounce = new Debounce(() => this.#pushAll(), debounceMs, maxDebounceMs)
    store.listen(() => this.#debounce.changed())
  }

  /** Adds the delta method to a server; SotW streams are not served. */
  register(server: Server): void {
    server.addService({
      deltaAggregatedResources: {
        path: deltaMethod,
        requestStream: true,
        responseStream: true,
        requestSerialize: () => Buffer.alloc(0),
        requestDeserialize: (bytes: Buffer) => fromBinary(DeltaDiscoveryRequestSchema, bytes),
        responseSerialize: (bytes: Buffer) => bytes,
        responseDeserialize: (bytes: Buffer) => bytes,
      },
    }, { deltaAggregatedResources: (call: XdsCall) => { void this.#serve(call) } })
  }

  /** Every node that is connected or was lately. */
  nodes(): NodeStatus[] {
    return this.#records.all(Date.now()).map((record) => {
      const stream = [...this.#streams.get(record) ?? []].at(-1)
      return statusOf(record, (type) => stream?.typeStatus(type) ?? { ...noType, ...record.progress[type] })
    })
  }

  /** Ends the streams of one that is not what it was when it was let in; it may come again as what it is now. */
  end(identity: string, because: string): void {
    for (const [record, streams] of this.#streams) {
      if (record.identity === identity) for (const stream of streams) stream.end(grpcStatus.PERMISSION_DENIED, because)
    }
    for (const [call, who] of this.#silent) if (who === identity) refuse(call, grpcStatus.PERMISSION_DENIED, because)
  }

  /** Ends all streams; nodes keep what they have and look for another server. */
  close(): void {
    this.#isClosed = true
    this.#debounce.close()
    for (const streams of this.#streams.values()) {
      for (const stream of streams) stream.end(grpcStatus.UNAVAILABLE, 'the control plane stops')
    }
    for (const call of this.#open) refuse(call, grpcStatus.UNAVAILABLE, 'the control plane stops')
  }

  async #serve(call: XdsCall): Promise<void> {
    // Errors of the transport end the call, which is what 'cancelled' and 'close' tell.
    call.on('error', () => {})
    if (this.#isClosed) return refuse(call, grpcStatus.UNAVAILABLE, 'the control plane stops')
    if (this.#open.size >= this.#limits.streams) return this.#overLimit(call, `more than ${this.#limits.streams} streams`)
    this.#open.add(call)
    const forget = (): void => {
      this.#open.delete(call)
      this.#silent.delete(call)
    }
    for (const event of ['cancelled', 'close', 'error', 'finish']) call.once(event, forget)
    const admission = await this.#authenticate(call)
    if (call.cancelled || this.#isClosed) return
    if (!admission.ok) return this.#refuse(call, admission)
    this.#silent.set(call, admission.identity)
    const timer = setTimeout(() => refuse(call, grpcStatus.DEADLINE_EXCEEDED, 'nothing was asked for'), this.#limits.firstRequestMs)
    for (const event of ['cancelled', 'close', 'error', 'finish']) call.once(event, () => clearTimeout(timer))
    call.once('data', (request: DeltaDiscoveryRequest) => {
      clearTimeout(timer)
      // What was read before a refusal is still told here.
      if (!this.#silent.delete(call)) return
      this.#attach(call, admission, request)
    })
    call.once('end', () => call.end())
  }

  async #authenticate(call: XdsCall): Promise<Admission> {
    const metadata = new Map(Object.entries(call.metadata.getMap()).map(([name, value]) => [name, String(value)]))
    try {
      return await this.#options.authenticate({ metadata, peer: call.getPeer() })
    } catch (error) {
      this.#options.logger.warn({ because: describeError(error), 'peer.addr': call.getPeer() }, 'xds caller could not be authenticated')
      return { ok: false, code: 'unauthenticated', because: 'the caller could not be authenticated' }
    }
  }

  #attach(call: XdsCall, caller: Admitted, first: DeltaDiscoveryRequest): void {
    const id = first.node?.id ?? ''
    if (id === '' || id.length > this.#limits.nameLength) {
      return refuse(call, grpcStatus.INVALID_ARGUMENT, 'the first request has no node id')
    }
    const metadata = (first.node?.metadata ?? {}) as JsonObject
    const admission = this.#options.admitNode?.(caller, { id, metadata }) ?? caller
    if (!admission.ok) return this.#refuse(call, admission)
    const { identity } = admission
    const record = this.#records.connected(id, admission, call.getPeer(), Date.now())
    const streams = this.#streams.get(record) ?? new Set()
    const { streamsPerNode } = this.#limits
    if (streams.size >= streamsPerNode) return this.#overLimit(call, `more than ${streamsPerNode} streams of one node`)
    this.#streams.set(record, streams)
    const stream = new NodeStream(call, record, this.#context)
    streams.add(stream)
    const over = (): void => this.#detach(stream)
    for (const event of ['cancelled', 'close', 'error', 'finish']) call.once(event, over)
    this.#options.logger.info({ 'node.id': id, identity, 'peer.addr': call.getPeer() }, 'xds node connected')
    call.on('data', (request: DeltaDiscoveryRequest) => stream.handle(request))
    stream.handle(first)
  }

  #detach(stream: NodeStream): void {
    stream.over()
    const { record } = stream
    const streams = this.#streams.get(record)
    if (!streams?.delete(stream) || streams.size > 0) return
    this.#streams.delete(record)
    record.disconnectedAtMs = Date.now()
    this.#options.logger.info({ 'node.id': record.node }, 'xds node disconnected')
  }

  #refuse(call: XdsCall, { code, because }: Admission & { ok: false }): void {
    this.#options.onRefused?.(code)
    this.#options.logger.warn({ code, because, 'peer.addr': call.getPeer() }, 'xds stream refused')
    refuse(call, refusalCodes[code], because)
  }

  #overLimit(call: XdsCall, because: string): void {
    this.#options.onRefused?.('limit')
    refuse(call, grpcStatus.RESOURCE_EXHAUSTED, because)
  }

  #pushAll(): void {
    if (this.#isPushing) {
      this.#pushAgain = true
      return
    }
    this.#isPushing = true
    const streams = [...this.#streams.values()].flatMap((each) => [...each])
    const step = (from: number): void => {
      for (const stream of streams.slice(from, from + nodesAtOnce)) {
        // On a stream that is up to date a policy goes ahead of the workload that begins to name it.
        stream.pump('authorization')
        stream.pump('address')
      }
      if (from + nodesAtOnce < streams.length) {
        setImmediate(step, from + nodesAtOnce)
        return
      }
      this.#isPushing = false
      for (const type of resourceTypes) this.#store.logs[type].compact(this.#oldest(type), this.#limits.tombstones)
      if (!this.#pushAgain) return
      this.#pushAgain = false
      this.#pushAll()
    }
    step(0)
  }

  #oldest(type: ResourceType): number {
    let oldest = this.#store.logs[type].seq
    for (const streams of this.#streams.values()) {
      for (const stream of streams) oldest = Math.min(oldest, stream.position(type) ?? oldest)
    }
    return oldest
  }
}

function refuse(call: XdsCall, code: grpcStatus, details: string): void {
  call.emit('error', { code, details })
}
