// What a consistent hash is taken of. A request without the value is balanced by chance, except that a cookie with a time to
// live is given to the client, so that its next request hashes.
import type { LoadBalancer } from '../../../model/route.ts'
import { parseCookies, parseQuery, type RequestHead } from '../request-head.ts'
import { hash32 } from './hash.ts'

export type HashBy = Extract<LoadBalancer, { readonly kind: 'consistentHash' }>['by']

export type HashAnswer =
  | { readonly t: 'hash'; readonly hash: number }
  /** Hash by this and send the cookie. */
  | { readonly t: 'newCookie'; readonly hash: number; readonly setCookie: string }
  | { readonly t: 'none' }

/** Values come from clients: longer ones are cut. */
const longestKey = 1_024
const hashOf = (value: string): HashAnswer =>
  ({ t: 'hash', hash: hash32(value.length > longestKey ? value.slice(0, longestKey) : value) })

/** `newValue` makes an unguessable value for a new cookie. */
export function hashKeyOf(by: HashBy, head: RequestHead, sourceIp: string, newValue: () => string): HashAnswer {
  switch (by.kind) {
    case 'sourceIp':
      return hashOf(sourceIp)
    case 'header': {
      const value = head.headers.get(by.name.toLowerCase())
      return value === undefined ? { t: 'none' } : hashOf(value)
    }
    case 'query': {
      const value = parseQuery(head.query).get(by.name)
      return value === undefined ? { t: 'none' } : hashOf(value)
    }
    case 'cookie': {
      const value = parseCookies(head.headers.all('cookie')).get(by.name)
      if (value !== undefined) return hashOf(value)
      if (by.ttlMs === undefined) return { t: 'none' }
      const made = newValue()
      const age = by.ttlMs > 0 ? `; Max-Age=${Math.ceil(by.ttlMs / 1000)}` : ''
      const setCookie = `${by.name}=${made}; Path=${by.path ?? '/'}; HttpOnly; SameSite=Lax${age}`
      return { t: 'newCookie', hash: hash32(made), setCookie }
    }
  }
}
