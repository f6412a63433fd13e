// What a claim of the demo is, and how the questions behind claims wait and refuse. The questions themselves are in demo-checks.ts
// (connections) and demo-requests.ts (requests).
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AppCounts, Shop } from './demo-shop.ts'

export interface Claim {
  readonly claim: string
  /** What was seen; throws where the claim does not hold. */
  readonly see: (shop: Shop) => Promise<string>
}

export class NotSo extends Error {}

export function hold(condition: boolean, otherwise: string): void {
  if (!condition) throw new NotSo(otherwise)
}

export const claimTimeoutMs = 15_000
/** Requests of the applications themselves go on for this long in a state before it is judged. */
export const dwellMs = 1_000

/** Throws where a request of the application failed, or none was made. */
export function noneFailed(before: AppCounts, after: AppCounts, targets: readonly string[] = ['catalogue', 'payments', 'stock']): string {
  const grown = (field: 'ok' | 'failed'): number => targets.reduce((sum, target) => sum + (after[target]?.[field] ?? 0) - (before[target]?.[field] ?? 0), 0)
  hold(grown('failed') === 0, `${grown('failed')} of ${grown('ok') + grown('failed')} requests failed: ${targets.map((target) => after[target]?.last).join(' ')}`)
  hold(grown('ok') > 0, 'no request was made meanwhile')
  return `${grown('ok')} requests, 0 failed`
}

export async function until(what: string, check: () => Promise<boolean | undefined>): Promise<void> {
  const deadline = performance.now() + claimTimeoutMs
  for (;;) {
    // Whoever is just being started again does not answer.
    if (await check().catch(() => false) === true) return
    hold(performance.now() < deadline, `not within ${claimTimeoutMs / 1_000} s: ${what}`)
    await sleep(25)
  }
}

export const newMarker = (): string => `marker-${randomBytes(12).toString('hex')}`
export const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`
