// Samples and what is told of them: median, smallest, largest. Two sides are always measured in turns, and compared pair
// by pair, so that a machine that slows down halfway slows both. Never an average: one bad round must not move a figure.

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
  /** In the order in which they were taken. */
  readonly samples: readonly number[]
}

/** One round: both sides, measured one right after the other. */
export interface Pair<T> {
  readonly baseline: T
  readonly measured: T
}

/** The value below which a share of `quantile` (0 to 1) of the samples lies; NaN of none. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = share * (sorted.length - 1)
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? low
  return low + (high - low) * (at - Math.floor(at))
}

export function spreadOf(samples: readonly number[]): Spread {
  return { median: quantile(samples, 0.5), min: quantile(samples, 0), max: quantile(samples, 1), samples }
}

/** Measures both sides `rounds` times, A B, B A, A B: neither always goes first. */
export async function inTurns<T>(rounds: number, baseline: () => Promise<T>, measured: () => Promise<T>): Promise<Pair<T>[]> {
  const pairs: Pair<T>[] = []
  for (let round = 0; round < rounds; round++) {
    if (round % 2 === 0) {
      const first = await baseline()
      pairs.push({ baseline: first, measured: await measured() })
    } else {
      const first = await measured()
      pairs.push({ baseline: await baseline(), measured: first })
    }
  }
  return pairs
}

/** Measures every side once a round, A B C, C B A, A B C: none is always the one that follows another. */
export async function inRounds<K, T>(rounds: number, sides: readonly (readonly [K, () => Promise<T>])[], onRound: (round: number) => void): Promise<ReadonlyMap<K, T>[]> {
  const all: ReadonlyMap<K, T>[] = []
  for (let round = 1; round <= rounds; round++) {
    onRound(round)
    const taken = new Map<K, T>()
    for (const [name, measure] of round % 2 === 1 ? sides : sides.toReversed()) taken.set(name, await measure())
    all.push(taken)
  }
  return all
}
