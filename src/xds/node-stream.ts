// One node's stream at the server: reads its requests, keeps a subscription per type, and sends each type's next push when
// the last one is answered. Decides nothing about content; a node that breaks a rule is told which and let go.
import type { ServerDuplexStream } from '@grpc/grpc-js'
import { status as grpcStatus } from '@grpc/grpc-js'
import { gatewayPrefix } from '../model/waypoint-config.ts'
import type { DeltaDiscoveryRequest } from '../proto/discovery_pb.ts'
import { encodeResponse } from './frames.ts'
import { noType } from './node-records.ts'
import type { NodeRecord, TypeStatus } from './node-records.ts'
import { readRefusal } from './refusal.ts'
import { PrefixView } from './resource-log.ts'
import type { LogView } from './resource-log.ts'
import { resourceTypes, typeOfUrl, typeUrls } from './resource-types.ts'
import type { ResourceType } from './resource-types.ts'
import type { XdsLimits, XdsServerOptions } from './server-options.ts'
import type { XdsStore } from './store.ts'
import { Subscription } from './subscription.ts'

export type XdsCall = ServerDuplexStream<DeltaDiscoveryRequest, Buffer>

export interface StreamContext {
  readonly store: Pick<XdsStore, 'logs' | 'addressesOfWaypoint'>
  readonly limits: XdsLimits
  /** How long the other types wait for the node to ask for addresses too. */
  readonly orderMs: number
  readonly onPush: XdsServerOptions['onPush']
}

interface Waiting {
  readonly nonce: string
  readonly sinceMs: number
  readonly names: readonly string[]
  readonly removed: readonly string[]
  readonly timer: NodeJS.Timeout
}

interface Channel {
  readonly subscription: Subscription
  waiting: Waiting | undefined
  isStarted: boolean
}

let nonces = 0

export class NodeStream {
  readonly #call: XdsCall
  readonly #context: StreamContext
  readonly record: NodeRecord
  readonly #channels = new Map<ResourceType, Channel>()
  readonly #timers = new Set<NodeJS.Timeout>()
  #isOver = false

  constructor(call: XdsCall, record: NodeRecord, context: StreamContext) {
    this.#call = call
    this.record = record
    this.#context = context
  }

  /** Progress in a type's log; undefined if it is not subscribed to. */
  position(type: ResourceType): number | undefined {
    return this.#channels.get(type)?.subscription.position
  }

  typeStatus(type: ResourceType): TypeStatus {
    const channel = this.#channels.get(type)
    if (!channel) return { ...noType, ...this.record.progress[type] }
    const { subscription, waiting } = channel
    return {
      subscribed: subscription.isWildcard ? 'all' : subscription.size,
      behind: this.#context.store.logs[type].seq - subscription.position,
      waitingSinceMs: waiting?.sinceMs,
      ...this.record.progress[type],
    }
  }

  handle(request: DeltaDiscoveryRequest): void {
    if (this.#isOver) return
    const type = typeOfUrl(request.typeUrl)
    if (!type) {
      const wanted = JSON.stringify(request.typeUrl.slice(0, 200))
      return this.end(grpcStatus.INVALID_ARGUMENT, `resources of type ${wanted} are not served here`)
    }
    const complaint = this.#complaint(request)
    if (complaint !== undefined) return this.end(grpcStatus.RESOURCE_EXHAUSTED, complaint)
    const interest = { subscribe: request.resourceNamesSubscribe, unsubscribe: request.resourceNamesUnsubscribe }
    const channel = this.#channels.get(type)
    if (!channel) {
      const { initialResourceVersions: initialVersions } = request
      this.#open(type, new Subscription(this.#viewOf(type), { ...interest, initialVersions }, this.#context.limits.pushBytes))
      return
    }
    if (request.responseNonce !== '') this.#answered(type, channel, request)
    channel.subscription.change(interest)
    if (channel.subscription.size > this.#context.limits.names) {
      return this.end(grpcStatus.RESOURCE_EXHAUSTED, `more than ${this.#context.limits.names} names asked for`)
    }
    this.pump(type)
  }

  /** Sends what is due of the type, and of those whose order depends on it. */
  pump(type: ResourceType): void {
    if (type === 'authorization') return this.#send(type)
    // A stream keeps its order: addresses that routes count on, then routes, then removals of what no route counts on any more.
    this.#send('address')
    if (!this.#lacksAddresses) this.#send('waypoint')
    this.#send('address')
  }

  /** Sends the type's next push if one is due and the last one is answered. */
  #send(type: ResourceType): void {
    const channel = this.#channels.get(type)
    if (this.#isOver || !channel?.isStarted || channel.waiting) return
    const { subscription } = channel
    if (subscription.isLost) return this.end(grpcStatus.ABORTED, 'too far behind; reconnect with what you have')
    const push = subscription.next(type === 'address' && this.#owesRoutes)
    if (!push) return
    nonces += 1
    const nonce = nonces.toString(36)
    const { seq } = this.#context.store.logs[type]
    const bytes = encodeResponse({ typeUrl: typeUrls[type], nonce, systemVersion: String(seq), removed: push.removed }, push.frames)
    const giveUp = (): void => this.end(grpcStatus.DEADLINE_EXCEEDED, `a push of ${type} was not answered`)
    const timer = this.#after(this.#context.limits.answerMs, giveUp)
    channel.waiting = { nonce, sinceMs: Date.now(), names: push.names, removed: push.removed, timer }
    this.record.progress[type].pushes += 1
    this.#context.onPush?.({ type, resources: push.names.length, removed: push.removed.length, bytes: bytes.length })
    this.#call.write(bytes)
  }

  /** Ends the stream with a status; what is in force at the node stays so. */
  end(code: grpcStatus, details: string): void {
    if (this.#isOver) return
    this.over()
    this.#call.emit('error', { code, details })
  }

  /** The stream is gone. */
  over(): void {
    this.#isOver = true
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
  }

  /** A gateway is told of its own resources, whatever it asks for, and who is none of nothing. */
  #viewOf(type: ResourceType): LogView {
    const log = this.#context.store.logs[type]
    const { gateway } = this.record
    return type === 'waypoint' ? new PrefixView(log, gateway && gatewayPrefix(gateway)) : log
  }

  /** Addresses that a change of the waypoint's resources may count on are still to be sent. */
  get #lacksAddresses(): boolean {
    const address = this.#channels.get('address')?.subscription
    return address !== undefined && address.ahead < this.#context.store.addressesOfWaypoint
  }

  /** What the node has of its waypoint's resources may count on addresses that are gone. */
  get #owesRoutes(): boolean {
    const waypoint = this.#channels.get('waypoint')?.subscription
    return waypoint !== undefined && !waypoint.isFirst && waypoint.position < this.#context.store.logs.waypoint.seq
  }

  // A node that knows policies but no addresses cannot apply them, so addresses come first whatever it asks for first.
  #open(type: ResourceType, subscription: Subscription): void {
    const channel: Channel = { subscription, waiting: undefined, isStarted: type === 'address' || this.#channels.has('address') }
    this.#channels.set(type, channel)
    if (channel.isStarted) {
      for (const each of resourceTypes) this.#begin(each)
    } else {
      this.#after(this.#context.orderMs, () => this.#begin(type))
    }
  }

  #begin(type: ResourceType): void {
    const channel = this.#channels.get(type)
    if (!channel) return
    channel.isStarted = true
    this.pump(type)
  }

  #answered(type: ResourceType, channel: Channel, request: DeltaDiscoveryRequest): void {
    const { waiting } = channel
    // An answer to something older says nothing about what is on its way.
    if (waiting?.nonce !== request.responseNonce) return
    clearTimeout(waiting.timer)
    this.#timers.delete(waiting.timer)
    channel.waiting = undefined
    const refused = request.errorDetail ? readRefusal(request.errorDetail, waiting.names) : []
    this.record.answered(type, waiting.names, waiting.removed, refused, Date.now())
  }

  #complaint({ resourceNamesSubscribe, resourceNamesUnsubscribe, initialResourceVersions }: DeltaDiscoveryRequest): string | undefined {
    const { names, nameLength } = this.#context.limits
    const all = [...resourceNamesSubscribe, ...resourceNamesUnsubscribe]
    if (all.length > names || Object.keys(initialResourceVersions).length > names) return `more than ${names} names`
    return all.some((name) => name.length > nameLength) ? `a name longer than ${nameLength}` : undefined
  }

  #after(ms: number, then: () => void): NodeJS.Timeout {
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      then()
    }, ms)
    timer.unref()
    this.#timers.add(timer)
    return timer
  }
}
