// The programs' ring buffer, decoded: every refusal as it happens. Events may be lost under load (counter eventLost);
// the counters never are.
import { bytesToIp } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { eventKind, readEvent, reason, sizeEvent } from './generated/layout.ts'
import type { EventKind, Reason } from './generated/layout.ts'
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'

export interface HookEvent {
  readonly kind: EventKind | 'unknown'
  readonly reason: Reason | 'unknown'
  /** Of the pod; 0 where the hook could not know it. */
  readonly netnsCookie: bigint
  /** CLOCK_MONOTONIC, nanoseconds. */
  readonly timeNs: bigint
  readonly source: SocketAddr
  readonly destination: SocketAddr
  /** Of the process that asked; 0 outside a process. */
  readonly pid: number
}

const kinds = new Map(Object.entries(eventKind).map(([name, value]) => [value as number, name as EventKind]))
const reasons = new Map(Object.entries(reason).map(([name, value]) => [value as number, name as Reason]))

/** `records` are whole events, one after another. */
export function decodeEvents(records: Uint8Array): HookEvent[] {
  const events: HookEvent[] = []
  for (let offset = 0; offset + sizeEvent <= records.length; offset += sizeEvent) {
    const event = readEvent(records, offset)
    events.push({
      kind: kinds.get(event.kind) ?? 'unknown',
      reason: reasons.get(event.reason) ?? 'unknown',
      netnsCookie: event.netnsCookie,
      timeNs: event.timeNs,
      source: { ip: bytesToIp(event.source), port: event.sourcePort },
      destination: { ip: bytesToIp(event.destination), port: event.destinationPort },
      pid: event.pid,
    })
  }
  return events
}

/** Calls back with each batch until the returned function is called. */
export function watchEvents(ring: OwnedFd, onEvents: (events: HookEvent[]) => void): () => void {
  const Ring = native().RingBuffer
  const reader = new Ring(ring, sizeEvent, (records) => onEvents(decodeEvents(records)))
  return () => reader.close()
}
