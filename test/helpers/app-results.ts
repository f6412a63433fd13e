// What the test applications print, as types. The C and Go sources under test/apps and test/bench/load are the other
// half of this contract; test/apps.test.ts drives every shape.

/** Addresses as text: `1.2.3.4:80`, `[::1]:80`, `[::ffff:1.2.3.4]:80` (mapped ones are shown as the socket sees them). */
export interface SocketNames {
  readonly local?: string
  readonly localErrno?: string
  readonly peer?: string
  readonly peerErrno?: string
}

export interface Outcome {
  readonly ok: boolean
  /** Which step failed; absent when `ok`. */
  readonly stage?: string
  /** `ECONNREFUSED` and the like; absent when `ok`. */
  readonly errno?: string
}

export interface ConnectResult extends Outcome {
  readonly asked: string
  readonly before: SocketNames
  /** Non-blocking only, and only if the connection was still being made. */
  readonly during?: SocketNames
  readonly after: SocketNames
  /** After the banner and the sending, before the reading. Absent when that was not reached. */
  readonly talking?: SocketNames
  readonly connectMs: number
  readonly totalMs: number
  readonly banner?: string
  readonly sent?: number
  readonly received?: number
  readonly reply?: string
  readonly end?: 'eof' | 'error' | 'timeout' | 'complete'
  /** SO_PROTOCOL: 6 for TCP, 262 for MPTCP. */
  readonly protocol?: number
  readonly mptcp?: 'negotiated' | 'fallback'
  /** Whether the peer took the data that travelled in the SYN. */
  readonly synData?: boolean
}

export interface DnsExchange {
  readonly server: string
  readonly socket: SocketNames
  readonly ms: number
  /** Where the reply came from, as recvfrom says (UDP). */
  readonly from?: string
  readonly fromServer?: boolean
  readonly rcode?: number
  readonly truncated?: boolean
  readonly answers?: readonly string[]
  readonly stage?: string
  readonly errno?: string
}

export interface DnsResult extends Outcome {
  readonly exchanges: readonly DnsExchange[]
}

export interface ResolveResult extends Outcome {
  readonly ms: number
  readonly addresses: readonly string[]
  /** getaddrinfo's words when it failed. */
  readonly resolver?: string
}

export interface RawSynResult extends Outcome {
  readonly reply?: 'synAck' | 'rst' | 'none'
}

export interface BulkResult extends Outcome {
  readonly direction: string
  readonly bytes: number
  readonly sent: number
  readonly received: number
  readonly sentHash: string
  readonly receivedHash: string
  readonly serverReceivedHash?: string
  readonly serverSentHash?: string
  /** Offset of the first wrong byte received, or -1. */
  readonly firstBadOffset: number
  readonly ms: number
  readonly gbitPerSecond: number
}

export interface FloodResult extends Outcome {
  /** Bytes the kernel took from the writer. */
  readonly accepted: number
}

export interface ManyResult extends Outcome {
  readonly asked: number
  readonly connected: number
  readonly echoed: number
  /** Still connected at the end. */
  readonly alive: number
  readonly failures: Readonly<Record<string, number>>
  readonly gatheredMs: number
  readonly connectMs?: { readonly p50: number; readonly p99: number; readonly max: number }
}

/** Sub-commands of the probe and what each prints last. */
export interface ProbeResults {
  readonly connect: ConnectResult
  readonly dns: DnsResult
  readonly resolve: ResolveResult
  readonly rawsyn: RawSynResult
  readonly spoofudp: Outcome
  readonly bulk: BulkResult
  readonly flood: FloodResult
  readonly many: ManyResult
}

export interface GoDialResult extends Outcome {
  readonly local?: string
  readonly peer?: string
  readonly connectMs: number
  readonly banner?: string
  readonly reply?: string
  readonly error?: string
}

export interface GoResolveResult extends Outcome {
  readonly addresses: readonly string[]
  readonly ms: number
  readonly notFound?: boolean
  readonly error?: string
}

export interface GoBulkResult extends Outcome {
  readonly sent?: number
  readonly received?: number
  readonly sentHash?: string
  readonly receivedHash?: string
  readonly ms?: number
  readonly error?: string
}

export interface GoclientResults {
  readonly dial: GoDialResult
  readonly resolve: GoResolveResult
  readonly bulk: GoBulkResult
}

/** Microseconds. */
export interface Durations {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly p999: number
  readonly max: number
}

interface Measured {
  readonly ok: boolean
  readonly failures: Readonly<Record<string, number>>
  readonly seconds: number
  /** Of the load generator itself. */
  readonly cpuSeconds: number
}

export interface LoadResults {
  readonly throughput: Measured & {
    readonly gbitPerSecond: number
    readonly gbitPerStream: readonly number[]
    readonly bytes: number
    readonly streams: number
  }
  readonly pingpong: Measured & {
    readonly us: Durations
    readonly count: number
    readonly size: number
    readonly streams: number
  }
  readonly rate: Measured & {
    readonly perSecond: number
    readonly us: Durations
    readonly count: number
    readonly parallel: number
  }
}

/** One finished connection of the server (with `--log`). `end` is `eof`, an errno or another error's text. */
export interface ClosedEvent {
  readonly event: 'closed'
  readonly mode: string
  readonly client: string
  readonly local: string
  readonly bytes: number
  readonly end: string
}

/** One question the DNS server was asked (with `--log`). */
export interface QuestionEvent {
  readonly event: 'question'
  readonly protocol: 'udp' | 'tcp'
  readonly name: string
  readonly type: number
  readonly client: string
  readonly local: string
}
