// Whom a server lets in, and its limits.
import type { JsonObject } from '@bufbuild/protobuf'
import type { ServerOptions } from '@grpc/grpc-js'
import type { Logger } from '../core/log.ts'
import type { GatewayName } from '../model/waypoint-config.ts'

export interface Admitted {
  readonly ok: true
  /** Who it is: nobody else's streams are told as its own. */
  readonly identity: string
  /** The node that it is, or that it runs on. */
  readonly node?: string
  /** It is one of this gateway's pods, and may have the gateway's resources. */
  readonly gateway?: GatewayName
}

/** Refusals reach the peer as gRPC status with the reason. */
export type Admission =
  | Admitted
  | { readonly ok: false; readonly code: 'unauthenticated' | 'permissionDenied'; readonly because: string }

export interface Caller {
  /** Of the call, lower-case names: authorization, clusterid. */
  readonly metadata: ReadonlyMap<string, string>
  /** Address and port of the peer. */
  readonly peer: string
}

export interface XdsServerOptions {
  /** Who calls; asked before anything of the stream is read. */
  readonly authenticate: (caller: Caller) => Promise<Admission>
  /** Whether the one who calls may be the node that it says it is; asked with the first request of a stream, and counts instead. */
  readonly admitNode?: (caller: Admitted, node: { readonly id: string; readonly metadata: JsonObject }) => Admission
  readonly logger: Logger
  /** Each push, for metrics. */
  readonly onPush?: (push: { readonly type: string; readonly resources: number; readonly removed: number; readonly bytes: number }) => void
  readonly onRefused?: (because: 'unauthenticated' | 'permissionDenied' | 'limit') => void
  readonly debounceMs?: number
  readonly maxDebounceMs?: number
  readonly limits?: Partial<XdsLimits>
}

export interface XdsLimits {
  readonly streams: number
  readonly streamsPerNode: number
  /** Names asked for by one stream, and held from before by it. */
  readonly names: number
  readonly nameLength: number
  /** Of one push. */
  readonly pushBytes: number
  /** How long a node may leave a push unanswered. */
  readonly answerMs: number
  /** How long a stream may say nothing at first. */
  readonly firstRequestMs: number
  /** Removals kept for nodes that have not heard of them. */
  readonly tombstones: number
  readonly nodes: number
  readonly keepNodeMs: number
}

export const serverDefaults = {
  debounceMs: 100,
  maxDebounceMs: 1_000,
  limits: {
    streams: 10_000,
    streamsPerNode: 4,
    names: 500_000,
    nameLength: 2_048,
    // Under the 200 MiB that ztunnels take.
    pushBytes: 128 * 1024 * 1024,
    answerMs: 300_000,
    firstRequestMs: 10_000,
    tombstones: 100_000,
    nodes: 20_000,
    keepNodeMs: 600_000,
  } satisfies XdsLimits,
} as const

/** For the grpc-js server that the service is added to. */
export const grpcServerOptions: ServerOptions = {
  'grpc.keepalive_time_ms': 30_000,
  'grpc.keepalive_timeout_ms': 10_000,
  // A reconnecting node names every resource that it holds.
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
  'grpc.max_send_message_length': 200 * 1024 * 1024,
  'grpc.max_concurrent_streams': 100,
}
