// Patterns written by users, in RE2 syntax: they run in linear time whatever they say, and they are refused when their
// program is so large that even linear is slow. JavaScript's RegExp is never given a user's text.
import { RE2JS } from 're2js'
import { MeshError } from '../../core/errors.ts'

/** Characters of a pattern. */
export const longestPattern = 1_024
/**
 * Instructions: about one per character of a pattern, times its repetitions. Envoy's old limit was 100, too small for lists of
 * words.
 */
export const largestProgram = 1_000
/**
 * Characters of a value; longer ones match no pattern. The worst patterns within the limits need about 20 microseconds per
 * character (`(a|b)*a(a|b){300}`, on a busy machine), ordinary ones a hundredth of it.
 */
export const longestValue = 8_192

export interface Pattern {
  readonly source: string
  /** Whether the whole value matches. Never throws. */
  holds(value: string): boolean
  /** Text with which every match begins; may be empty. */
  readonly literalPrefix: string
}

// Tables are compiled again whenever one of their rules changes; parsing their patterns is most of that time.
const known = new Map<string, Pattern>()
const mostKnown = 20_000

/** Throws MeshError BAD_CONFIG with what is wrong with the pattern. */
export function compilePattern(source: string): Pattern {
  const found = known.get(source)
  if (found) return found
  const pattern = makePattern(source)
  if (known.size >= mostKnown) known.clear()
  known.set(source, pattern)
  return pattern
}

// A program takes about 10 KiB and its states up to 8 MiB more, so ten thousand patterns are not all kept ready: those in use
// are, up to this many; one that was dropped is compiled again in about 0.1 ms when it is next asked.
const ready = new Map<string, RE2JS>()
const mostReady = 1_024

function readyProgram(source: string): RE2JS {
  const found = ready.get(source)
  if (found) return found
  const program = RE2JS.compile(source)
  if (ready.size >= mostReady) {
    for (const oldest of ready.keys()) {
      ready.delete(oldest)
      break
    }
  }
  ready.set(source, program)
  return program
}

function makePattern(source: string): Pattern {
  // Compiled to see that it can be, and let go.
  compileRe2(source)
  const literalPrefix = literalPrefixOf(source)
  return {
    source,
    literalPrefix,
    holds(value) {
      return value.length <= longestValue && value.startsWith(literalPrefix) && readyProgram(source).testExact(value)
    },
  }
}

/** Replaces each match in `value`; `\1` to `\9` in the substitution are groups, `\0` the match, `\\` a backslash. */
export interface Substitution {
  apply(value: string): string
}

/** Throws MeshError BAD_CONFIG. */
export function compileSubstitution(source: string, substitution: string): Substitution {
  const compiled = compileRe2(source)
  const parts = substitutionParts(substitution, compiled.groupCount())
  return {
    apply(value) {
      if (value.length > longestValue) return value
      const matcher = compiled.matcher(value)
      let out = ''
      let from = 0
      while (matcher.find()) {
        // As RE2's own replacement does it: nothing is no match right behind one.
        if (matcher.start() === matcher.end() && matcher.end() === from && from > 0) continue
        out += value.slice(from, matcher.start())
        for (const part of parts) out += typeof part === 'string' ? part : (matcher.group(part) ?? '')
        from = matcher.end()
        // Group references could make a short request into a huge one.
        if (out.length > longestValue) return value
      }
      return out + value.slice(from)
    },
  }
}

function compileRe2(source: string): RE2JS {
  if (source.length > longestPattern) throw badPattern(source, `is longer than ${longestPattern} characters`)
  let compiled: RE2JS
  try {
    compiled = RE2JS.compile(source)
  } catch (cause) {
    throw badPattern(source, cause instanceof Error ? cause.message : 'does not parse', cause)
  }
  const size = compiled.programSize()
  if (size > largestProgram) throw badPattern(source, `needs ${size} instructions, more than ${largestProgram}`)
  return compiled
}

function badPattern(source: string, what: string, cause?: unknown): MeshError {
  return new MeshError('BAD_CONFIG', `the pattern ${JSON.stringify(source.slice(0, 100))} ${what}`, { cause })
}

function substitutionParts(text: string, groups: number): readonly (string | number)[] {
  const parts: (string | number)[] = []
  let literal = ''
  for (let i = 0; i < text.length; i++) {
    const next = text[i + 1]
    if (text[i] !== '\\') literal += text[i]
    else if (next === '\\') {
      literal += '\\'
      i++
    } else if (next !== undefined && next >= '0' && next <= '9') {
      if (Number(next) > groups) throw new MeshError('BAD_CONFIG',
        `the substitution names group ${next}, and the pattern has ${groups}`)
      parts.push(literal, Number(next))
      literal = ''
      i++
    } else throw new MeshError('BAD_CONFIG', 'a backslash in a substitution stands before a digit or a backslash')
  }
  return [...parts, literal].filter((part) => part !== '')
}

const plainText = /^[A-Za-z0-9/_~:@=,;%&!"'<> -]$/

/** Cautious: stops at the first character that could mean anything else, and knows nothing of what an alternation allows. */
function literalPrefixOf(source: string): string {
  if (/[|]|\\Q|\(\?/.test(source)) return ''
  let prefix = ''
  let i = source.startsWith('^') ? 1 : 0
  for (; i < source.length; i++) {
    const char = source[i] ?? ''
    const isEscaped = char === '\\'
    const literal = isEscaped ? (source[i + 1] ?? '') : char
    if (isEscaped ? !/^[./+*?()[\]{}^$\\-]$/.test(literal) : !plainText.test(literal)) break
    const after = source[i + (isEscaped ? 2 : 1)] ?? ''
    // A repetition concerns the character before it, which then need not be there.
    if (after === '*' || after === '?' || after === '{' || after === '+') break
    prefix += literal
    if (isEscaped) i++
  }
  return prefix
}
