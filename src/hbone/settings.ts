// The numbers of HBONE in one place. Those of HTTP/2 are the ones Istio's ztunnel announces (reference 1.6 and 7), so that a
// peer sees no difference; the limits are ours.
import type { ServerSessionOptions, ClientSessionOptions } from 'node:http2'

const mebibyte = 1_048_576

/** Bytes one stream may have under way without being read. */
export const streamWindowBytes = 4 * mebibyte
/** Four streams' worth, so that one slow reader does not stop its neighbours. */
export const connectionWindowBytes = 16 * mebibyte
export const maxFrameBytes = mebibyte
export const clientHeaderListBytes = 16_384
export const serverHeaderListBytes = 65_536

/** What every session needs to stay alive and to be let go. Milliseconds. */
export interface SessionTimeouts {
  /** From the TCP connection to the peer's SETTINGS, or for a server to a verified client certificate. */
  readonly handshakeTimeoutMs: number
  /** Waiting for the first certificate of an identity. */
  readonly certificateTimeoutMs: number
  readonly pingIntervalMs: number
  /** From the ping to the end of the session. */
  readonly pingTimeoutMs: number
}

export const defaultTimeouts: SessionTimeouts = {
  handshakeTimeoutMs: 10_000,
  certificateTimeoutMs: 5_000,
  pingIntervalMs: 10_000,
  pingTimeoutMs: 20_000,
}

// nghttp2 counts what is queued for sending; it refuses new streams above this. Windows, not memory, shall decide.
const sessionMemoryMegabytes = 64
const maxHeaderPairs = 64

export const clientSessionOptions: ClientSessionOptions = {
  settings: {
    enablePush: false,
    initialWindowSize: streamWindowBytes,
    maxFrameSize: maxFrameBytes,
    maxHeaderListSize: clientHeaderListBytes,
    maxConcurrentStreams: 0,
  },
  maxSessionMemory: sessionMemoryMegabytes,
  maxHeaderListPairs: maxHeaderPairs,
  maxReservedRemoteStreams: 0,
  maxSettings: 32,
  maxOutstandingPings: 4,
}

/** `maxStreams`: at once on one connection. */
export function serverSessionOptions(maxStreams: number): ServerSessionOptions & { streamResetBurst: number; streamResetRate: number } {
  return {
    settings: {
      initialWindowSize: streamWindowBytes,
      maxFrameSize: maxFrameBytes,
      maxHeaderListSize: serverHeaderListBytes,
      maxConcurrentStreams: maxStreams,
    },
    maxSessionMemory: sessionMemoryMegabytes,
    maxHeaderListPairs: maxHeaderPairs,
    maxSessionInvalidFrames: 32,
    maxSessionRejectedStreams: 100,
    maxSettings: 32,
    maxOutstandingPings: 4,
    // nghttp2's own limit on resets (1,000 and then 33 a second) would cut a peer whose applications reset often, which is
    // their right. Resets before an answer, the attack, are counted in flood-guard.ts.
    streamResetBurst: 20_000,
    streamResetRate: 5_000,
  }
}
