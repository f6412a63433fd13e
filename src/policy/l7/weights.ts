// Which backend of a rule gets a request. A broken backend keeps its share and that share is answered 500 (Gateway API: "requests
// that would have been routed to an invalid backend must receive 500"); so does a rule whose weights are all zero or that
// has no backend.
import type { Backend } from '../../model/route.ts'

export type BackendChoice =
  | { readonly t: 'backend'; readonly backend: Backend }
  | { readonly t: 'error'; readonly status: 500; readonly because: 'brokenBackend' | 'noBackends'
    | 'noWeight'; readonly detail?: string }

export interface WeightedBackends {
  /** `random` is 0 <= x < 1. */
  choose(random: number): BackendChoice
}

const noBackends: BackendChoice = { t: 'error', status: 500, because: 'noBackends' }
const noWeight: BackendChoice = { t: 'error', status: 500, because: 'noWeight' }

export function compileWeights(backends: readonly Backend[]): WeightedBackends {
  const choices: BackendChoice[] = []
  const ends: number[] = []
  let total = 0
  for (const backend of backends) {
    if (!(backend.weight > 0)) continue
    total += backend.weight
    ends.push(total)
    choices.push(backend.broken === undefined ? { t: 'backend', backend }
      : { t: 'error', status: 500, because: 'brokenBackend', detail: backend.broken })
  }
  const [only] = choices
  if (backends.length === 0) return { choose: () => noBackends }
  if (!only) return { choose: () => noWeight }
  if (choices.length === 1) return { choose: () => only }
  return {
    choose(random) {
      const at = random * total
      let low = 0
      let high = ends.length - 1
      while (low < high) {
        const middle = (low + high) >> 1
        if (at < (ends[middle] ?? 0)) high = middle
        else low = middle + 1
      }
      return choices[low] ?? noWeight
    },
  }
}
