// What was learned of destinations outside, as the admin API shows it.
import type { LearnedView } from '../model/ztunnel-views.ts'
import type { LearnedDestination } from './learned-destinations.ts'

export function learnedView({ firstSeenMs, lastSeenMs, ...rest }: LearnedDestination): LearnedView {
  return { ...rest, firstSeen: new Date(firstSeenMs).toISOString(), lastSeen: new Date(lastSeenMs).toISOString() }
}
