// The one reading of a request's head. What Node's parsers let through and another server could read differently is refused here,
// with the status that says why; nothing is repaired. Hop-by-hop headers end here (RFC 9110, 7.6.1). Pure: no I/O, never throws.
import { isFieldValue } from '../../policy/l7/header-change.ts'
import { normalisePath } from '../../policy/l7/path.ts'
import type { PathRules } from '../../policy/l7/path.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { HttpLimits, MessageHead, Refusal, RefusalReason } from './message.ts'

export interface StrictRules {
  readonly limits: HttpLimits
  readonly paths: PathRules
  /** Protocols that may be changed to, in lower case; others are ignored (RFC 9110, 7.8). */
  readonly upgrades: readonly string[]
}

export interface Http1Head {
  readonly method: string
  readonly target: string
  readonly minorVersion: number
  /** Name, value, name, value ... as on the wire. */
  readonly rawHeaders: readonly string[]
}

export interface ReadHead {
  readonly t: 'head'
  readonly head: MessageHead
  readonly hasBody: boolean
  readonly contentLength?: number
  readonly acceptsTrailers: boolean
  readonly expectsContinue: boolean
  readonly upgrade?: string
}

export type HeadDecision = ReadHead | ({ readonly t: 'refused' } & Refusal)

const refuse = (status: number, because: RefusalReason): HeadDecision => ({ t: 'refused', status, because })

const token = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const digits = /^[0-9]{1,15}$/
// RFC 3986, 3.2.2 without percent-encoding and user information, which no host needs and servers disagree about.
const authorityForm = /^(?:[a-z0-9_](?:[a-z0-9_.~-]*[a-z0-9_.~])?|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?$/
const targetCharacters = /^[\x21\x22\x24-\x7e]+$/

const hopByHop = new Set(['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade', 'http2-settings', 'expect'])
/** RFC 9113, 8.2.2. */
const forbiddenInHttp2 = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'http2-settings'])
/** Meant for every recipient: a connection option of that name would hide it from some (RFC 9110, 7.6.1). */
const endToEnd = new Set([
  'host', 'content-length', 'content-type', 'content-encoding', 'authorization', 'cookie', 'cache-control', 'origin', 'forwarded', 'date', 'range',
  'via', 'x-real-ip', 'baggage', 'traceparent', 'tracestate', 'idempotency-key',
])
const trailersNever = new Set([
  ...hopByHop, 'host', 'content-length', 'content-type', 'content-encoding', 'content-range', 'trailer', 'authorization', 'proxy-authorization',
  'cookie', 'set-cookie', 'cache-control', 'age', 'date', 'expires', 'location', 'vary', 'max-forwards', 'range', 'origin', 'forwarded',
])

/** For HTTP/1.0 and 1.1. `scheme` is the connection's: a client does not choose it. */
export function readHttp1Head(raw: Http1Head, scheme: 'http' | 'https', rules: StrictRules): HeadDecision {
  const { limits } = rules
  if (raw.target.length > limits.uriBytes) return refuse(414, 'longUri')
  if (!token.test(raw.method)) return refuse(400, 'badMethod')
  if (raw.method === 'CONNECT') return refuse(405, 'badMethod')
  const headers = new HeaderMap()
  const refusal = collect(raw.rawHeaders, limits, headers)
  if (refusal) return refusal
  const framing = readFraming(headers, raw.minorVersion)
  if ('because' in framing) return refuse(framing.status, framing.because)

  const hosts = headers.all('host')
  if (hosts.length !== 1) return refuse(400, 'badHost')
  let authority = (hosts[0] ?? '').toLowerCase()
  if (!isAuthority(authority)) return refuse(400, 'badHost')
  let { target } = raw
  const absolute = /^https?:\/\/([^/?]*)(.*)$/i.exec(target)
  if (absolute) {
    // RFC 9112, 3.2.2 prefers the target's; that somebody could prefer the other is reason enough to want them equal.
    if ((absolute[1] ?? '').toLowerCase() !== authority) return refuse(400, 'badHost')
    authority = (absolute[1] ?? '').toLowerCase()
    target = absolute[2]?.startsWith('/') === true ? absolute[2] : `/${absolute[2] ?? ''}`
  }
  const options = readConnection(headers)
  if (options === undefined) return refuse(400, 'badConnectionOption')
  const expect = headers.get('expect')?.toLowerCase()
  if (expect !== undefined && expect !== '100-continue') return refuse(417, 'unknownExpectation')
  const acceptsTrailers = readTe(headers.get('te'))
  const upgrade = options.has('upgrade') ? upgradeOf(headers, rules) : undefined
  if (upgrade !== undefined && (raw.method !== 'GET' || framing.hasBody || raw.minorVersion === 0)) return refuse(400, 'badUpgrade')
  headers.delete('host')
  removeHopByHop(headers, options)
  return finish(raw.method, scheme, authority, target, headers, rules, {
    ...framing, acceptsTrailers, expectsContinue: expect !== undefined && framing.hasBody && raw.minorVersion > 0, ...(upgrade !== undefined && { upgrade }),
  })
}

/** `rawHeaders` with pseudo-headers, as Node's 'stream' event has them; `isEnd`: HEADERS had END_STREAM. */
export function readHttp2Head(rawHeaders: readonly string[], isEnd: boolean, scheme: 'http' | 'https', rules: StrictRules): HeadDecision {
  const pseudo = new Map<string, string>()
  const fields: string[] = []
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? ''
    if (!name.startsWith(':')) fields.push(name, rawHeaders[i + 1] ?? '')
    else if (pseudo.has(name) || fields.length > 0) return refuse(400, 'badHeader')
    else pseudo.set(name, rawHeaders[i + 1] ?? '')
  }
  const target = pseudo.get(':path')
  let method = pseudo.get(':method') ?? ''
  if (!token.test(method)) return refuse(400, 'badMethod')
  const protocol = pseudo.get(':protocol')?.toLowerCase()
  if (method === 'CONNECT' && protocol === undefined) return refuse(405, 'badMethod')
  if (method !== 'CONNECT' && protocol !== undefined) return refuse(400, 'badUpgrade')
  if (target === undefined) return refuse(400, 'badTarget')
  if (target.length > rules.limits.uriBytes) return refuse(414, 'longUri')
  const headers = new HeaderMap()
  const refusal = collect(fields, rules.limits, headers)
  if (refusal) return refusal
  for (const name of forbiddenInHttp2) if (headers.has(name)) return refuse(400, 'badHeader')
  const lengths = headers.all('content-length')
  if (lengths.length > 1 || (lengths[0] !== undefined && !digits.test(lengths[0]))) return refuse(400, 'badFraming')
  const contentLength = lengths[0] === undefined ? undefined : Number(lengths[0])
  if (isEnd && contentLength !== undefined && contentLength > 0) return refuse(400, 'badFraming')

  const hosts = headers.all('host')
  const authority = (pseudo.get(':authority') ?? hosts[0] ?? '').toLowerCase()
  if (hosts.length > 1 || (hosts[0] !== undefined && hosts[0].toLowerCase() !== authority) || !isAuthority(authority)) return refuse(400, 'badHost')
  if (protocol !== undefined && !rules.upgrades.includes(protocol)) return refuse(501, 'badUpgrade')
  if (protocol !== undefined && isEnd) return refuse(400, 'badUpgrade')
  const expect = headers.get('expect')?.toLowerCase()
  if (expect !== undefined && expect !== '100-continue') return refuse(417, 'unknownExpectation')
  const te = headers.get('te')
  if (te !== undefined && te.toLowerCase() !== 'trailers') return refuse(400, 'badHeader')
  // RFC 9113, 8.2.3: crumbs are one header to everybody else.
  const cookies = headers.all('cookie')
  if (cookies.length > 1) headers.set('cookie', cookies.join('; '))
  if (protocol !== undefined) method = 'GET'
  headers.delete('host')
  removeHopByHop(headers, [])
  return finish(method, scheme, authority, target, headers, rules, {
    hasBody: !isEnd && protocol === undefined, acceptsTrailers: te !== undefined, expectsContinue: expect !== undefined && !isEnd,
    ...(contentLength !== undefined && { contentLength }), ...(protocol !== undefined && { upgrade: protocol }),
  })
}

function finish(
  method: string, scheme: 'http' | 'https', authority: string, target: string, headers: HeaderMap, rules: StrictRules, facts: Omit<ReadHead, 't' | 'head'>,
): HeadDecision {
  if (!targetCharacters.test(target) || (target === '*' && method !== 'OPTIONS')) return refuse(400, 'badTarget')
  const mark = target.indexOf('?')
  const path = normalisePath(mark < 0 ? target : target.slice(0, mark), rules.paths)
  if (path.t === 'refused') return path.because === 'tooLong' ? refuse(414, 'longUri') : refuse(400, path.because === 'notAbsolute' ? 'badTarget' : 'badPath')
  const query = mark < 0 ? '' : target.slice(mark + 1)
  return { t: 'head', head: { method, scheme, authority, path: { path: path.path, matched: path.matched }, query, headers }, ...facts }
}

function isAuthority(authority: string): boolean {
  const match = authority.length <= 261 ? authorityForm.exec(authority) : null
  return match !== null && (match[1] === undefined || Number(match[1]) <= 65_535)
}

function collect(raw: readonly string[], { headBytes, headerCount }: HttpLimits, headers: HeaderMap): HeadDecision | undefined {
  if (raw.length / 2 > headerCount) return refuse(431, 'largeHead')
  let bytes = 0
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? ''
    const value = raw[i + 1] ?? ''
    bytes += name.length + value.length + 4
    if (!token.test(name) || !isFieldValue(value)) return refuse(400, 'badHeader')
    headers.append(name, value)
  }
  return bytes > headBytes ? refuse(431, 'largeHead') : undefined
}

/** RFC 9112, 6: exactly one way to find the end of the body. */
function readFraming(headers: HeaderMap, minorVersion: number): { readonly hasBody: boolean; readonly contentLength?: number } | Refusal {
  const lengths = headers.all('content-length')
  const codings = headers.all('transfer-encoding')
  if (codings.length > 0) {
    if (lengths.length > 0 || codings.length > 1 || minorVersion === 0) return { status: 400, because: 'badFraming' }
    return codings[0]?.toLowerCase() === 'chunked' ? { hasBody: true } : { status: 501, because: 'unknownCoding' }
  }
  const length = lengths[0]
  if (length === undefined) return { hasBody: false }
  if (lengths.length > 1 || !digits.test(length)) return { status: 400, because: 'badFraming' }
  return { hasBody: Number(length) > 0, contentLength: Number(length) }
}

/** Connection options in lower case; undefined if one is none, or would hide what is meant for everybody. */
function readConnection(headers: HeaderMap): ReadonlySet<string> | undefined {
  const options = new Set<string>()
  for (const option of (headers.get('connection') ?? '').toLowerCase().split(',')) {
    const name = option.trim()
    if (name === '') continue
    if (!token.test(name) || endToEnd.has(name) || name.startsWith('x-forwarded-') || name.startsWith('sec-')) return undefined
    options.add(name)
  }
  return options
}

function upgradeOf(headers: HeaderMap, { upgrades }: StrictRules): string | undefined {
  const asked = headers.get('upgrade')?.toLowerCase().trim()
  return asked !== undefined && upgrades.includes(asked) ? asked : undefined
}

function readTe(te: string | undefined): boolean {
  return te !== undefined && te.toLowerCase().split(',').some((coding) => coding.trim().split(';')[0]?.trim() === 'trailers')
}

function removeHopByHop(headers: HeaderMap, options: Iterable<string>): void {
  for (const name of hopByHop) headers.delete(name)
  for (const name of options) headers.delete(name)
}

/** An upstream's headers as the client's side may have them; undefined where they cannot be sent on. Raw as on the wire, without pseudo-headers. */
export function readAnswerHeaders(raw: readonly string[]): HeaderMap | undefined {
  const headers = new HeaderMap()
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? ''
    const value = raw[i + 1] ?? ''
    if (!token.test(name) || !isFieldValue(value)) return undefined
    headers.append(name, value)
  }
  if (headers.all('content-length').length > 1) return undefined
  const connection = headers.get('connection')
  const options = connection?.toLowerCase().split(',').map((option) => option.trim()).filter((name) => !endToEnd.has(name))
  removeHopByHop(headers, options ?? [])
  // Which trailers come is for the next hop to say.
  headers.delete('trailer')
  return headers
}

/** Trailers without those that nobody may merge (RFC 9110, 6.5.1); undefined if none are left. */
export function readTrailers(raw: readonly string[]): HeaderMap | undefined {
  let trailers: HeaderMap | undefined
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = (raw[i] ?? '').toLowerCase()
    const value = raw[i + 1] ?? ''
    if (!token.test(name) || !isFieldValue(value) || trailersNever.has(name)) continue
    trailers ??= new HeaderMap()
    trailers.append(name, value)
  }
  return trailers
}

/** For gRPC's own content types, `application/grpc-web` excepted: that is plain HTTP. */
export function isGrpc(headers: HeaderMap): boolean {
  const type = headers.get('content-type')
  return type !== undefined && /^application\/grpc(?:$|[+;\s])/i.test(type)
}
