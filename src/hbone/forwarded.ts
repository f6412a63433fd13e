// The `forwarded` header (RFC 7239) of a CONNECT: `for="ip:port";host=name`. It names the client's address and the service it
// asked for. Only a peer that is trusted to speak for others (a waypoint, a gateway) may be believed; this file only reads.
import { formatAddr } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { formatAuthority, parseAuthority } from './authority.ts'

export interface Forwarded {
  readonly client?: SocketAddr
  /** The service's hostname, lower case. */
  readonly host?: string
}

const maxLength = 1_024
const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+/
const quoted = /^"((?:[\t !#-[\]-~\u0080-\u00ff]|\\[\t -~])*)"/

/**
 * The first element only: it was added nearest to the client. Undefined where the header is missing, longer than 1 KiB or
 * breaks the grammar, so that no half-read header is used; obfuscated and `unknown` clients are no client.
 */
export function parseForwarded(header: string | undefined): Forwarded | undefined {
  if (header === undefined || header.length > maxLength) return undefined
  const pairs = parsePairs(header)
  if (!pairs) return undefined
  const node = pairs.get('for')
  const client = node === undefined ? undefined : parseAuthority(node)
  const host = parseHost(pairs.get('host'))
  return {
    ...(client && 'ok' in client && client.ok.t === 'address' && { client: client.ok.address }),
    ...(host !== undefined && { host }),
  }
}

function parsePairs(header: string): ReadonlyMap<string, string> | undefined {
  const pairs = new Map<string, string>()
  let rest = header.trim()
  for (;;) {
    const name = token.exec(rest)?.[0]
    if (name === undefined || rest[name.length] !== '=') return undefined
    rest = rest.slice(name.length + 1)
    const plain = token.exec(rest)?.[0]
    const string = plain === undefined ? quoted.exec(rest) : null
    if (plain === undefined && !string) return undefined
    const value = plain ?? (string?.[1] ?? '').replace(/\\(.)/gs, '$1')
    rest = rest.slice(plain?.length ?? string?.[0].length ?? 0).trimStart()
    // A parameter must not occur twice in one element (RFC 7239, 4).
    if (pairs.has(name.toLowerCase())) return undefined
    pairs.set(name.toLowerCase(), value)
    if (rest === '' || rest.startsWith(',')) return pairs
    if (!rest.startsWith(';')) return undefined
    rest = rest.slice(1).trimStart()
  }
}

/** With or without a port, as Host may be. */
function parseHost(text: string | undefined): string | undefined {
  if (text === undefined) return undefined
  const parsed = parseAuthority(/:[0-9]+$/.test(text) ? text : `${text}:1`)
  if ('fault' in parsed) return undefined
  return parsed.ok.t === 'hostname' ? parsed.ok.hostname : parsed.ok.address.ip
}

/** `for` is always quoted, as ztunnel does; a host that is no token is left out. '' where there is nothing to say. */
export function formatForwarded({ client, host }: Forwarded): string {
  const parts: string[] = []
  if (client) parts.push(`for="${formatAddr(client)}"`)
  if (host !== undefined && 'ok' in parseAuthority(formatAuthority({ t: 'hostname', hostname: host, port: 1 }))) parts.push(`host=${host}`)
  return parts.join(';')
}
