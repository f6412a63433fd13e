// What was seen on a wire, as far as somebody who asks whether it is encrypted wants to know: flows and how they speak. Pure data.
import type { SocketAddr } from '../core/address.ts'

/** One direction of a TCP connection, or the packets of another protocol between the same two ends. */
export interface WireFlow {
  readonly protocol: string
  /** Empty address and port 0 where there are none. */
  readonly source: SocketAddr
  readonly destination: SocketAddr
  /** Of payload. */
  readonly bytes: number
  /** `begunBefore`: the capture did not see its first byte, so how it speaks cannot be told. */
  readonly speaks: 'TLS 1.3' | 'TLS records' | 'plain' | 'nothing' | 'begunBefore'
}

export interface WireView {
  readonly packets: number
  readonly flows: readonly WireFlow[]
  /** Whether the text is in the payload of any packet or stream. */
  contains(text: string): boolean
}

/** A capture that runs. */
export interface WireWatch {
  /** All that was on the wire until now. */
  look(): Promise<WireView>
  stop(): Promise<void>
}
