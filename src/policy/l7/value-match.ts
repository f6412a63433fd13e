// One ValueMatch as a function. A pattern that does not compile makes the whole rule unusable, which is said, not hidden.
import type { NamedMatch, ValueMatch } from '../../model/route.ts'
import { compilePattern } from './pattern.ts'

export type ValueTest = (value: string) => boolean

/** Throws MeshError BAD_CONFIG for a bad pattern. Presence holds for the empty value too. */
export function compileValue(match: ValueMatch): ValueTest {
  switch (match.kind) {
    case 'exact': {
      const wanted = match.value
      return (value) => value === wanted
    }
    case 'prefix': {
      const wanted = match.value
      return (value) => value.startsWith(wanted)
    }
    case 'suffix': {
      const wanted = match.value
      return (value) => value.endsWith(wanted)
    }
    case 'regex': {
      const pattern = compilePattern(match.value)
      return (value) => pattern.holds(value)
    }
    case 'presence':
      return () => true
  }
}

/** Absent never matches; inverted, absent does. */
export function compileNamed({ match, isInverted }: NamedMatch): (value: string | undefined) => boolean {
  const test = compileValue(match)
  if (isInverted) return (value) => value === undefined || !test(value)
  return (value) => value !== undefined && test(value)
}
