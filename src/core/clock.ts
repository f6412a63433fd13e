// Time as rooms see it, handed in so that tests of time-outs, renewals and back-offs need not wait. Nothing else reads time.

export interface Clock {
  /** Milliseconds since 1970: for what outlives the process or is compared with certificates. May jump. */
  nowMs(): number
  /** Milliseconds since some moment: for durations. Never goes back. */
  monotonicMs(): number
  /** Calls once after `ms` milliseconds; returns how to call it off. Does not keep the process alive. */
  after(ms: number, call: () => void): () => void
}

/** setTimeout fires at once for anything longer. */
const longestTimerMs = 2 ** 31 - 1

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(ms, call) {
    const timer = setTimeout(call, Math.max(0, Math.min(ms, longestTimerMs)))
    timer.unref()
    return () => clearTimeout(timer)
  },
}
