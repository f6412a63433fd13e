// Where tokens stand in a request (headers with a prefix, query parameters, cookies), and how one is taken away again so that the
// backend does not get it. Reads and removes the same thing: what was taken for the token is what goes.
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import { parseCookies, parseQuery } from '../../policy/l7/request-head.ts'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'

export interface FoundToken {
  readonly token: string
  readonly place: { readonly kind: 'header' | 'query' | 'cookie'; readonly name: string }
}

/** Of one place; a client that sends more is not to keep us busy. */
const mostTokens = 4
const defaultPrefix = 'Bearer '

export function findTokens(head: RequestHead, { fromHeaders, fromParams, fromCookies }: JwtRule): readonly FoundToken[] {
  const found: FoundToken[] = []
  const isDefault = fromHeaders.length + fromParams.length + fromCookies.length === 0
  const headers = isDefault ? [{ name: 'authorization', prefix: defaultPrefix }] : fromHeaders
  for (const { name, prefix = '' } of headers) {
    const key = name.toLowerCase()
    for (const value of head.headers.all(key).slice(0, mostTokens)) {
      const token = afterPrefix(value, prefix)
      if (token !== undefined) found.push({ token, place: { kind: 'header', name: key } })
    }
  }
  const params = isDefault ? ['access_token'] : fromParams
  if (params.length > 0 && head.query !== '') {
    const query = parseQuery(head.query)
    for (const name of params) {
      const token = query.get(name)
      if (token !== undefined && token !== '') found.push({ token, place: { kind: 'query', name } })
    }
  }
  if (fromCookies.length > 0) {
    const cookies = parseCookies(head.headers.all('cookie'))
    for (const name of fromCookies) {
      const token = cookies.get(name)
      if (token !== undefined && token !== '') found.push({ token, place: { kind: 'cookie', name } })
    }
  }
  return found
}

/** Schemes of Authorization have no case (RFC 9110, 11.1); other prefixes are compared as they are. */
function afterPrefix(value: string, prefix: string): string | undefined {
  const isHeld = prefix === defaultPrefix ? value.slice(0, prefix.length).toLowerCase() === 'bearer ' : value.startsWith(prefix)
  if (!isHeld) return undefined
  const token = value.slice(prefix.length).trim()
  return token === '' ? undefined : token
}

/** The query afterwards; headers and cookies are changed in place. */
export function removeToken(
  { headers, query }: { readonly headers: HeaderMap; readonly query: string }, { place }: FoundToken,
): string {
  switch (place.kind) {
    case 'header':
      headers.delete(place.name)
      return query
    case 'query':
      return query.split('&').filter((pair) => pair !== '' && !parseQuery(pair).has(place.name)).join('&')
    case 'cookie': {
      const left = headers.all('cookie').flatMap((value) => value.split(';')).map((pair) => pair.trim())
        .filter((pair) => pair !== '' && !parseCookies([pair]).has(place.name))
      if (left.length === 0) headers.delete('cookie')
      else headers.set('cookie', left.join('; '))
      return query
    }
    default: return place.kind satisfies never
  }
}
