// What an answer is kept under. The primary key is all that routing knows of a request; the secondary key is the values of the
// headers that the answer varies by. Two different requests never share a key, whatever their paths and headers contain.
import type { RequestHead } from '../request-head.ts'

/** `scope` is what answers: the route and its backends, so that a changed route begins with nothing. */
export function primaryKey(scope: string, { scheme, authority, path, query }: RequestHead): string {
  // None of these contains a line feed: paths and queries are refused with one, an authority is a host.
  return [scope, scheme, authority, path.path, query].map((part) => part.replaceAll('\n', '%0A')).join('\n')
}

/** Names lower case and sorted, as `decideStore` gives them. Values as they are but for space around them (RFC 9111, 4.1). */
export function varyKey(names: readonly string[], { headers }: RequestHead): string {
  return names.map((name) => {
    const values = headers.all(name)
    if (values.length === 0) return `${name}-`
    const value = values.flatMap((each) => each.split(',')).map((each) => each.trim()).join(',')
    return `${name}=${value.length}:${value}`
  }).join('\n')
}

/**
 * URIs whose answers are out of date after an unsafe request succeeded (RFC 9111, 4.4): its own, and those it names on its own
 * host.
 */
export function invalidated(scope: string, request: RequestHead, status: number,
  location: readonly (string | undefined)[]): string[] {
  const isSafe = ['GET', 'HEAD', 'OPTIONS', 'TRACE', 'QUERY'].includes(request.method)
  if (isSafe || status < 200 || status >= 400) return []
  const keys = [primaryKey(scope, request)]
  for (const target of location) {
    const named = target === undefined ? undefined : sameOrigin(request, target)
    if (named) keys.push(primaryKey(scope, { ...request, path: { path: named.path, matched: named.path }, query: named.query }))
  }
  return keys
}

function sameOrigin({ scheme, authority }: RequestHead, target: string): { readonly path: string; readonly query: string }
  | undefined {
  const base = `${scheme}://${authority}`
  if (!URL.canParse(target, base)) return undefined
  const url = new URL(target, base)
  const own = URL.canParse(base) ? new URL(base).origin : undefined
  return url.origin === own ? { path: url.pathname, query: url.search.slice(1) } : undefined
}
