// The path and host that a backend gets. A rewritten path is made canonical again and refused if it is not a path: a rule must
// not build what a client may not send. The query stays as it is.
import type { HttpRule, PathRewrite, RequestMatch } from '../../model/route.ts'
import { isUnder, normalisePath, patternPath, type NormalPath, type PathRules } from './path.ts'
import { compileSubstitution, type Substitution } from './pattern.ts'

export interface CompiledPathRewrite {
  /** The new path, or undefined where the result is no path (answer 400). `match` is the alternative that held. */
  apply(path: NormalPath, match: RequestMatch | undefined): NormalPath | undefined
}

/** Throws MeshError BAD_CONFIG for a bad pattern. */
export function compilePathRewrite(rewrite: PathRewrite, rules?: PathRules): CompiledPathRewrite {
  switch (rewrite.kind) {
    case 'full':
      return { apply: () => again(rewrite.value, rules) }
    case 'prefix':
      return { apply: (path, match) => replacePrefix(path, match, rewrite.value, rules) }
    case 'regex': {
      const substitution: Substitution = compileSubstitution(rewrite.pattern, rewrite.substitution)
      return { apply: (path) => again(substitution.apply(path.path), rules) }
    }
  }
}

function again(path: string, rules: PathRules | undefined): NormalPath | undefined {
  const decision = normalisePath(Buffer.from(path, 'utf8').toString('latin1'), rules)
  return decision.t === 'path' && decision.path !== '*' ? decision : undefined
}

/** Gateway API's ReplacePrefixMatch: element by element, `/foo` with `/` makes `/foo/bar` to `/bar` and `/foo` to `/`. */
function replacePrefix(path: NormalPath, match: RequestMatch | undefined, value: string, rules: PathRules
  | undefined): NormalPath | undefined {
  const matched = match?.path?.kind === 'prefix' ? match.path : undefined
  const prefix = patternPath(matched?.value ?? '/', rules) ?? '/'
  const isHeld = matched?.isCaseInsensitive ? isUnder(path.matched.toLowerCase(), prefix.toLowerCase())
    : isUnder(path.matched, prefix)
  if (!isHeld) return path
  // Both forms of a path have the same segments, so parameters of the replaced ones go, and those of the rest stay.
  const count = prefix.split('/').filter((segment) => segment !== '').length
  const rest = path.path.split('/').slice(1 + count)
  const head = value.endsWith('/') ? value.slice(0, -1) : value
  // `/foo/` is below `/foo`; `/foo` itself has nothing left, and its replacement is the value as written.
  if (rest.length === 0) return again(value === '' ? '/' : value, rules)
  return again(`${head}/${rest.join('/')}`, rules)
}

/** The authority for the backend. */
export function rewrittenAuthority(authority: string, rewrite: HttpRule['rewrite']): string {
  return rewrite?.hostname ?? authority
}
