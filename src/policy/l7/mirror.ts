// Whether chance says yes: for mirrors and faults.
import type { Fraction, Mirror } from '../../model/route.ts'

/** `random` is 0 <= x < 1. Nothing and broken fractions never hold; more than all is all. */
export function isChosen({ numerator, denominator }: Fraction, random: number): boolean {
  return denominator > 0 && numerator > 0 && random * denominator < numerator
}

/** Each mirror is chosen for itself; broken ones are not used. Mirrored answers are thrown away, so a mirror is never retried. */
export function chooseMirrors(mirrors: readonly Mirror[], random: () => number): readonly Mirror[] {
  if (mirrors.length === 0) return mirrors
  return mirrors.filter(({ backend, fraction }) => backend.broken === undefined && isChosen(fraction, random()))
}
