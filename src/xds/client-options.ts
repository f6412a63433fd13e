// What a client is told, and what it says of itself.
import type { JsonObject } from '@bufbuild/protobuf'
import type { Logger } from '../core/log.ts'
import type { GatewayName } from '../model/waypoint-config.ts'
import type { XdsDelta } from './resource-cache.ts'
import type { ResourceType } from './resource-types.ts'

export interface XdsClientOptions {
  /** `host:port`. */
  readonly address: string
  /** Name in the server's certificate where it is not the host of `address`. */
  readonly serverName?: string
  /** Trust roots in PEM, asked for again at each connection; undefined means those of the system. */
  readonly roots: () => Promise<string | undefined>
  /** Bearer token, asked for again at each connection; undefined sends none. */
  readonly token?: () => Promise<string | undefined>
  readonly clusterId?: string
  /** Further metadata of each call. */
  readonly headers?: Readonly<Record<string, string>>
  readonly node: { readonly id: string; readonly metadata: JsonObject }
  /** What is asked for; what a ztunnel needs unless given. */
  readonly types?: readonly ResourceType[]
  /** Of the type `waypoint`: whose resources are asked for and taken. Told to the server as GATEWAY in the node's metadata. */
  readonly gateway?: GatewayName
  /** Ask for addresses one by one with `request` instead of for all. */
  readonly isOnDemand?: boolean
  /** Takes a change in force; the response is acknowledged when it is done. A failure closes the stream and asks again. */
  readonly onDelta: (delta: XdsDelta) => void | Promise<void>
  /** After each response that changed something, for who keeps state on disk. */
  readonly onChanged?: () => void
  readonly onState?: (state: XdsState) => void
  /** Each response, for metrics. */
  readonly onResponse?: (response: { readonly type: ResourceType; readonly bytes: number; readonly rejected: number }) => void
  readonly logger: Logger
  readonly signal?: AbortSignal
  readonly connectTimeoutMs?: number
  /** First and last bound of the random wait between attempts. */
  readonly backoff?: { readonly firstMs: number; readonly maxMs: number }
  readonly keepalive?: { readonly timeMs: number; readonly timeoutMs: number }
  readonly maxMessageBytes?: number
  /** On demand: how many names may be asked for. */
  readonly maxNames?: number
}

export type XdsState =
  | { readonly t: 'idle' }
  | { readonly t: 'connecting'; readonly attempt: number }
  /** Connected; the types named have not answered on this stream. */
  | { readonly t: 'syncing'; readonly missing: readonly ResourceType[] }
  | { readonly t: 'ready'; readonly sinceMs: number }
  | { readonly t: 'waiting'; readonly attempt: number; readonly delayMs: number; readonly because: string }
  | { readonly t: 'closed' }

export const clientDefaults = {
  types: ['address', 'authorization'],
  connectTimeoutMs: 5_000,
  backoff: { firstMs: 10, maxMs: 15_000 },
  keepalive: { timeMs: 30_000, timeoutMs: 10_000 },
  maxMessageBytes: 200 * 1024 * 1024,
  maxNames: 65_536,
} as const
