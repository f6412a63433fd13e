// Who asks, as the backend is told: headers that a proxy vouches for are taken away from whoever may not say them, and set by us.
// Also gives the request an id. Decides nothing; what it returns is what later phases may believe.
import { randomUUID } from 'node:crypto'
import { canonicalIp } from '../../core/address.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Caller, ConnectionContext } from '../context.ts'
import { clientCertificateElement } from './client-certificate-header.ts'

export interface IdentityRules {
  /** Our own, as the caller saw it; may change when certificates do. */
  readonly own: () => Identity | undefined
  /**
   * Callers that speak for others, such as an ingress: SPIFFE URIs, or beginnings of them that end with `*`. What they say about
   * their client is kept and added to.
   */
  readonly trustedForwarders: readonly string[]
  /** Further callers of that sort. */
  readonly isForwarder?: (caller: Caller) => boolean
  /** Proxies in front of a listener that each add an address to X-Forwarded-For. */
  readonly trustedHops: number
}

export interface Identified {
  /** The client before trusted proxies. */
  readonly remoteIp: string
}

/** The names that only a proxy may say. `x-real-ip` and its like are what other proxies write there. */
const prefixes = ['x-forwarded-', 'x-sidestep-', 'x-envoy-']
const names = new Set(['forwarded', 'x-real-ip', 'x-client-ip', 'true-client-ip', 'x-original-url', 'x-rewrite-url'])
/** What a forwarder's word about its client is: the rest goes whoever says it. */
const controls = ['x-sidestep-', 'x-envoy-']
const idForm = /^[A-Za-z0-9._:+/=@~-]{1,128}$/
const mostForwarded = 32

export type Identify = (context: ConnectionContext, scheme: 'http' | 'https', headers: HeaderMap) => Identified

export function makeIdentify(rules: IdentityRules): Identify {
  // A connection's caller does not change, and its requests are many.
  const elements = new WeakMap<ConnectionContext, { readonly own: Identity | undefined; readonly text: string | undefined }>()
  const forwarders = new WeakMap<Caller, boolean>()
  const elementOf = (context: ConnectionContext): string | undefined => {
    const own = rules.own()
    const known = elements.get(context)
    if (known && known.own === own) return known.text
    const text = clientCertificateElement(context, own)
    elements.set(context, { own, text })
    return text
  }
  const isForwarder = (caller: Caller): boolean => {
    const known = forwarders.get(caller)
    if (known !== undefined) return known
    const uri = caller.identity && formatIdentity(caller.identity)
    const isNamed = (each: string): boolean => uri !== undefined && (
      each.endsWith('*') ? uri.startsWith(each.slice(0, -1)) : each === uri
    )
    const found = rules.trustedForwarders.some(isNamed) || (uri !== undefined && rules.isForwarder?.(caller) === true)
    forwarders.set(caller, found)
    return found
  }

  return (context, scheme, headers) => {
    const { caller, target } = context
    const isTrusted = isForwarder(caller)
    const hops = target.t === 'listener' ? rules.trustedHops : 0
    const said = isTrusted || hops > 0 ? forwardedFor(headers, isTrusted ? mostForwarded : hops, isTrusted) : []
    const saidScheme = isTrusted || said.length > 0 ? schemeOf(headers) : undefined
    const certificates = isTrusted ? headers.get('x-forwarded-client-cert') : undefined
    for (const name of headers.names()) {
      if (name.charCodeAt(0) !== 120 && name.charCodeAt(0) !== 102 && name.charCodeAt(0) !== 116) continue
      if ((isTrusted ? controls : prefixes).some((prefix) => name.startsWith(prefix))
        || (!isTrusted && names.has(name))) headers.delete(name)
    }
    const element = elementOf(context)
    const chain = certificates === undefined ? element : element === undefined ? certificates : `${certificates},${element}`
    if (chain !== undefined) headers.set('x-forwarded-client-cert', chain)
    headers.set('x-forwarded-for', said.length === 0 ? caller.address.ip : `${said.join(', ')}, ${caller.address.ip}`)
    headers.set('x-forwarded-proto', saidScheme ?? scheme)
    const id = headers.get('x-request-id')
    if (id === undefined || !idForm.test(id)) headers.set('x-request-id', randomUUID())
    return { remoteIp: said[0] ?? caller.address.ip }
  }
}

/**
 * The last `count` addresses, the farthest first; none where one of them is no address, or fewer are there than proxies must have
 * written.
 */
function forwardedFor(headers: HeaderMap, count: number, mayBeFewer: boolean): readonly string[] {
  const value = headers.get('x-forwarded-for')
  if (value === undefined || value.length > 4_096) return []
  const parts = value.split(',')
  if (parts.length < count && !mayBeFewer) return []
  const addresses = parts.slice(-count).map(addressOf)
  return addresses.every((each) => each !== undefined) ? addresses : []
}

/** Some proxies write the port, too. */
export function addressOf(text: string): string | undefined {
  const trimmed = text.trim()
  const bracketed = /^\[([0-9a-fA-F:.]+)\](?::\d{1,5})?$/.exec(trimmed)
  const withPort = /^([0-9.]+):\d{1,5}$/.exec(trimmed)
  // The zone of a link-local address means nothing to anybody else.
  return trimmed.includes('%') ? undefined : canonicalIp(bracketed?.[1] ?? withPort?.[1] ?? trimmed)
}

function schemeOf(headers: HeaderMap): 'http' | 'https' | undefined {
  const said = headers.get('x-forwarded-proto')?.toLowerCase()
  return said === 'http' || said === 'https' ? said : undefined
}
