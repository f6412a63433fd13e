// Istio's path templates: `{*}` is exactly one segment that is not empty, `{**}` any number of segments, none too. Everything
// else is literal. Compared with normalised paths, in time that grows with path times template at worst.
import { patternPath } from './path.ts'

const one = Symbol('one')
const many = Symbol('many')
type Part = string | typeof one | typeof many

/** Undefined if it is no template: a brace where none may be, or a path that no request has. */
export function compileTemplate(template: string): ((path: string) => boolean) | undefined {
  if (!template.startsWith('/') || template.length > 1_024) return undefined
  const parts: Part[] = []
  for (const segment of template.slice(1).split('/')) {
    if (segment === '{*}') parts.push(one)
    else if (segment === '{**}') parts.push(many)
    else if (/[{}*]/.test(segment)) return undefined
    else {
      const literal = patternPath(`/${segment}`)
      if (literal === undefined) return undefined
      parts.push(literal.slice(1))
    }
  }
  return (path) => path.startsWith('/') && matchesParts(parts, path.slice(1).split('/'))
}

/** The usual algorithm for one kind of star: on a mismatch the last star takes one more segment. */
function matchesParts(parts: readonly Part[], segments: readonly string[]): boolean {
  let part = 0
  let segment = 0
  let star = -1
  let starSegment = 0
  while (segment < segments.length) {
    const wanted = parts[part]
    if (wanted === many) {
      star = part++
      starSegment = segment
    } else if (part < parts.length && (wanted === one ? segments[segment] !== '' : wanted === segments[segment])) {
      part++
      segment++
    } else if (star >= 0) {
      part = star + 1
      segment = ++starSegment
    } else return false
  }
  while (parts[part] === many) part++
  return part === parts.length
}
