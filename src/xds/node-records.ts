// What is known of each node that asked for the mesh's state: where it is, how far behind it is, and which resources it
// refused and why. A record outlives its stream for a while, so that a node that went away is seen to have gone.
import type { GatewayName } from '../model/waypoint-config.ts'
import type { Rejection } from './resource-cache.ts'
import type { ResourceType } from './resource-types.ts'
import { resourceTypes } from './resource-types.ts'

export interface Nack {
  readonly type: ResourceType
  /** Resource name, or '' where the node did not say which. */
  readonly resource: string
  readonly because: string
  /** Milliseconds since 1970. */
  readonly atMs: number
}

export interface TypeStatus {
  /** Subscribed to everything, to so many names, or not at all. */
  readonly subscribed: 'all' | number | 'none'
  /** Changes that the node was not sent yet. */
  readonly behind: number
  /** Since when a push waits for its answer; undefined if none does. */
  readonly waitingSinceMs: number | undefined
  readonly pushes: number
  readonly acked: number
  readonly nacked: number
}

export interface NodeStatus {
  readonly node: string
  readonly identity: string
  /** Absent for nodes. */
  readonly gateway?: GatewayName
  readonly peer: string
  readonly connectedAtMs: number
  /** Undefined while a stream is there. */
  readonly disconnectedAtMs: number | undefined
  readonly types: Readonly<Record<ResourceType, TypeStatus>>
  readonly nacks: readonly Nack[]
}

export interface Progress {
  pushes: number
  acked: number
  nacked: number
}

const maxNacks = 1000

export class NodeRecord {
  readonly node: string
  identity = ''
  gateway: GatewayName | undefined
  peer = ''
  connectedAtMs = 0
  disconnectedAtMs: number | undefined
  readonly progress: Record<ResourceType, Progress> = {
    address: { pushes: 0, acked: 0, nacked: 0 },
    authorization: { pushes: 0, acked: 0, nacked: 0 },
    waypoint: { pushes: 0, acked: 0, nacked: 0 },
  }
  readonly #nacks = new Map<string, Nack>()

  constructor(node: string) {
    this.node = node
  }

  /** The answer to a push of these names. */
  answered(type: ResourceType, pushed: readonly string[], removed: readonly string[], refused: readonly Rejection[], atMs: number): void {
    for (const name of ['', ...pushed, ...removed]) this.#nacks.delete(`${type} ${name}`)
    for (const { name, because } of refused) {
      if (this.#nacks.size >= maxNacks) break
      this.#nacks.set(`${type} ${name}`, { type, resource: name, because, atMs })
    }
    this.progress[type][refused.length > 0 ? 'nacked' : 'acked'] += 1
  }

  get nacks(): Nack[] {
    return [...this.#nacks.values()]
  }
}

export class NodeRecords {
  readonly #records = new Map<string, NodeRecord>()
  readonly #maxNodes: number
  readonly #keepMs: number

  constructor(maxNodes: number, keepMs: number) {
    this.#maxNodes = maxNodes
    this.#keepMs = keepMs
  }

  connected(node: string, { identity, gateway }: Pick<NodeStatus, 'identity' | 'gateway'>, peer: string, nowMs: number): NodeRecord {
    this.#forget(nowMs)
    // The identity belongs to the key: nobody may write into the record of another by using its name.
    const key = `${identity} ${node}`
    const record = this.#records.get(key) ?? new NodeRecord(node)
    this.#records.delete(key)
    this.#records.set(key, record)
    record.identity = identity
    record.gateway = gateway
    record.peer = peer
    record.connectedAtMs = nowMs
    record.disconnectedAtMs = undefined
    return record
  }

  all(nowMs: number): NodeRecord[] {
    this.#forget(nowMs)
    return [...this.#records.values()]
  }

  /** Those gone for long, and the longest known of those gone when there are too many. */
  #forget(nowMs: number): void {
    let excess = this.#records.size - this.#maxNodes
    for (const [key, { disconnectedAtMs }] of this.#records) {
      if (disconnectedAtMs === undefined || (disconnectedAtMs + this.#keepMs > nowMs && excess <= 0)) continue
      this.#records.delete(key)
      excess -= 1
    }
  }
}

/** The status of a type nobody subscribed to. */
export const noType: TypeStatus = { subscribed: 'none', behind: 0, waitingSinceMs: undefined, pushes: 0, acked: 0, nacked: 0 }

export function statusOf(record: NodeRecord, typeStatus: (type: ResourceType) => TypeStatus): NodeStatus {
  const { node, identity, gateway, peer, connectedAtMs, disconnectedAtMs, nacks } = record
  const types = Object.fromEntries(resourceTypes.map((type) => [type, typeStatus(type)])) as Record<ResourceType, TypeStatus>
  return { node, identity, ...(gateway && { gateway }), peer, connectedAtMs, disconnectedAtMs, types, nacks }
}
