// The :authority of a CONNECT: where the client wants to go. `ip:port`, `[v6]:port` or `hostname:port`, and nothing that needs
// guessing: no default port, no userinfo, no zone, no second spelling of a number. Never throws, never resolves a name.
import { canonicalIp, formatAddr } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'

export type Authority =
  | { readonly t: 'address'; readonly address: SocketAddr }
  /** Lower case, without a trailing dot. */
  | { readonly t: 'hostname'; readonly hostname: string; readonly port: number }

export type AuthorityFault = 'empty' | 'tooLong' | 'noPort' | 'badPort' | 'badAddress' | 'badHostname'

// RFC 1035: 253 octets of name, and the port.
const maxLength = 260
const label = /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/

/** Says what is wrong rather than that something is. */
export function parseAuthority(text: string): { readonly ok: Authority } | { readonly fault: AuthorityFault } {
  if (text === '') return { fault: 'empty' }
  if (text.length > maxLength) return { fault: 'tooLong' }
  const colon = text.lastIndexOf(':')
  if (colon < 0) return { fault: 'noPort' }
  const host = text.slice(0, colon)
  if (host.startsWith('[') !== host.endsWith(']')) return { fault: host.endsWith(']') ? 'badAddress' : 'noPort' }
  const port = parsePort(text.slice(colon + 1))
  if (port === undefined) return { fault: 'badPort' }
  if (host.startsWith('[')) return parseBracketed(host.slice(1, -1), port)
  if (host.includes(':')) return { fault: 'badAddress' }
  // What consists of digits and dots only is an address or a mistake, never a name (RFC 1123, 2.1).
  if (/^[0-9.]*$/.test(host)) {
    const ip = canonicalIp(host)
    return ip === undefined ? { fault: 'badAddress' } : { ok: { t: 'address', address: { ip, port } } }
  }
  const hostname = host.toLowerCase().replace(/\.$/, '')
  if (hostname.length > 253 || !hostname.split('.').every((part) => label.test(part))) return { fault: 'badHostname' }
  return { ok: { t: 'hostname', hostname, port } }
}

function parseBracketed(host: string, port: number): { readonly ok: Authority } | { readonly fault: AuthorityFault } {
  const ip = host.includes(':') && !host.includes('%') ? canonicalIp(host) : undefined
  return ip === undefined ? { fault: 'badAddress' } : { ok: { t: 'address', address: { ip, port } } }
}

/** 1 to 65535 in decimal without leading zeros; undefined for everything else. */
export function parsePort(text: string): number | undefined {
  if (!/^[1-9][0-9]{0,4}$/.test(text)) return undefined
  const port = Number(text)
  return port <= 65_535 ? port : undefined
}

/** The one spelling that parseAuthority() gives back unchanged. */
export function formatAuthority(authority: Authority): string {
  switch (authority.t) {
    case 'address': return formatAddr(authority.address)
    case 'hostname': return `${authority.hostname}:${authority.port}`
    default: return authority satisfies never
  }
}
