// What the tunnel tells the world: one event for each thing that is counted. Whoever makes a pool or a server hands in the
// function that counts; nothing in this room depends on what it does with them.
import type { Identity } from '../core/identity.ts'

export type Side = 'client' | 'server'

/** `because` and `reason` are of small closed sets and fit for metric labels; `detail` is for people. */
export type HboneEvent =
  | { readonly t: 'handshake'; readonly side: Side; readonly peer: Identity; readonly durationMs: number }
  | { readonly t: 'handshakeFailed'; readonly side: Side; readonly because: string; readonly detail: string; readonly remote: string }
  | { readonly t: 'sessionClosed'; readonly side: Side; readonly peer: Identity; readonly because: string }
  /** `isReused`: on a connection that was there before, so a handshake was saved. */
  | { readonly t: 'streamOpened'; readonly side: Side; readonly isReused: boolean; readonly durationMs: number }
  | { readonly t: 'streamRefused'; readonly side: Side; readonly because: string }
  | { readonly t: 'streamRetried'; readonly because: string }
  /** A session was ended because its peer misbehaves. */
  | { readonly t: 'flood'; readonly because: string; readonly peer: Identity }
  /** A limit was reached: something was refused or put out. */
  | { readonly t: 'shed'; readonly side: Side; readonly because: string }

export type HboneEvents = (event: HboneEvent) => void
