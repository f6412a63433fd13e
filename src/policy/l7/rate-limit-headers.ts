// What a client is told about its limits: `RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-11 (May
// 2026: two structured lists of named policies; the three separate fields of old drafts are gone), Retry-After, and the problem
// type of section 5.1. Partition keys are not sent: they would tell a client what it is counted by.
import { windowMsOf, type LimitState } from './rate-limit.ts'
import type { HeaderList } from './cors.ts'

/** Largest Integer of structured fields (RFC 9651, 3.3.1). */
const largestInteger = 999_999_999_999_999
/** A year: for what is never allowed. */
const longestSeconds = 31_536_000

/** Names become Strings: ASCII, quotes and backslashes escaped; anything else is replaced. */
function sfString(text: string): string {
  return `"${text.replaceAll(/[^\x20-\x7e]/g, '_').replaceAll(/["\\]/g, '\\$&')}"`
}

// What is no number at all counts as zero.
const integer = (value: number): number => Math.max(0, Math.min(largestInteger, Math.floor(value) || 0))
const seconds = (ms: number): number => Math.min(longestSeconds, Math.max(0, Math.ceil(ms / 1000) || 0))

/** `Retry-After` is there if any of them refuses, and is not earlier than the window that `RateLimit` names. */
export function rateLimitHeaders(states: readonly LimitState[], nowMs: number): HeaderList {
  if (states.length === 0) return []
  const policies = states.map(({ rule }) =>
    `${sfString(rule.name)};q=${integer(rule.limit)};w=${Math.max(1, seconds(windowMsOf(rule, nowMs)))}`)
  const limits = states.map((state) => {
    const left = state.isAllowed ? Math.min(state.remaining, state.rule.limit) : 0
    return `${sfString(state.rule.name)};r=${integer(left)};t=${seconds(state.isAllowed ? state.resetMs : state.retryAfterMs)}`
  })
  const refused = states.filter(({ isAllowed }) => !isAllowed)
  const wait = refused.reduce((most, { retryAfterMs }) => Math.max(most, retryAfterMs), 0)
  return [
    ['ratelimit-policy', policies.join(', ')],
    ['ratelimit', limits.join(', ')],
    ...(refused.length > 0 ? [['retry-after', String(Math.max(1, seconds(wait)))] as const] : []),
  ]
}

/** Body of a 429, as application/problem+json (RFC 9457). */
export function quotaExceededProblem(states: readonly LimitState[]): string {
  return JSON.stringify({
    type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
    title: 'Request cannot be satisfied as assigned quota has been exceeded',
    'violated-policies': states.filter(({ isAllowed }) => !isAllowed).map(({ rule }) => rule.name),
  })
}
