// Whether an answer may be kept for others: RFC 9111, section 3, for a shared cache, and stricter where a mistake would show
// one caller's data to another. Without a word from the server (or a microcaching rule) nothing is kept; there are no guesses
// from Last-Modified.
import type { HeaderValues, RequestHead } from '../request-head.ts'
import { deltaSeconds, fieldNames, has, parseCacheControl, parseHttpDate } from './cache-control.ts'

export interface CachePolicy {
  /** Freshness for answers that say nothing about caching; never against what they say. */
  readonly microcache?: { readonly ttlMs: number; readonly statuses: readonly number[] }
  /** For answers that name none themselves. */
  readonly staleIfErrorMs?: number
  readonly staleWhileRevalidateMs?: number
  /** Whether clients may ask for fresh answers; without it nobody can make the cache pass everything on. */
  readonly heedsRequests: boolean
  /** Bytes of a body; larger answers are not kept. */
  readonly largestBodyBytes: number
}

export type NotStoredBecause =
  | 'method' | 'requestBody' | 'status' | 'noStore' | 'private' | 'authorization' | 'cookies' | 'vary' | 'noFreshness' | 'range'
    | 'tooLarge'

export type StoreDecision =
  | {
    readonly t: 'store'
    /** Until it is stale, from when it was made. */
    readonly lifetimeMs: number
    /** Headers that are not kept with it. */
    readonly without: readonly string[]
    /** Names that the key of a variant is made of, lower case, sorted. */
    readonly vary: readonly string[]
  }
  | { readonly t: 'pass'; readonly because: NotStoredBecause }

export interface ResponseHead {
  readonly status: number
  readonly headers: HeaderValues
}

// RFC 9110, 15.1: cacheable without more being said. 206 is left out: parts are not put together here.
const cacheableStatuses = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])
const mostVary = 16
// RFC 9111, 3.1: fields of a connection are not kept.
const neverKept = ['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade', 'proxy-authenticate',
  'proxy-authentication-info', 'proxy-authorization', 'age'] as const

const pass = (because: NotStoredBecause): StoreDecision => ({ t: 'pass', because })

/** Whether a request may be answered from the cache at all, and its answer kept. */
export function isCacheableRequest({ method, headers }: RequestHead): boolean {
  if (method !== 'GET' && method !== 'HEAD') return false
  // A GET with a body has no key.
  const length = headers.get('content-length')
  return !headers.has('transfer-encoding') && (length === undefined || length === '0') && !headers.has('upgrade')
}

export function decideStore(request: RequestHead, { status, headers }: ResponseHead, policy: CachePolicy): StoreDecision {
  if (request.method !== 'GET') return pass('method')
  if (!isCacheableRequest(request)) return pass('requestBody')
  if (request.headers.has('range') || status === 206 || headers.has('content-range')) return pass('range')
  const control = parseCacheControl(headers.all('cache-control'))
  const asked = parseCacheControl(request.headers.all('cache-control'))
  if (has(control, 'no-store') || has(asked, 'no-store')) return pass('noStore')
  // Also for `private="field"`: what is private in part is kept by nobody here.
  if (has(control, 'private') && !onlySetCookie(fieldNames(control, 'private'))) return pass('private')
  const isExplicit = has(control, 'public') || has(control, 's-maxage')
  // RFC 9111, 3.5.
  if (request.headers.has('authorization') && !isExplicit && !has(control, 'must-revalidate')) return pass('authorization')
  const without: string[] = [...neverKept]
  if (headers.has('set-cookie')) {
    // Set-Cookie does not forbid storing (7.3), but only a server that says that everybody may have the answer means it. The
    // cookie itself goes to the one whom it was made for.
    const isNamed = fieldNames(control, 'private').includes('set-cookie')
      || fieldNames(control, 'no-cache').includes('set-cookie')
    if (!isExplicit && !isNamed) return pass('cookies')
    without.push('set-cookie')
  }
  const vary = namesIn(headers, 'vary')
  if (vary.includes('*') || vary.length > mostVary) return pass('vary')
  const length = headers.get('content-length')
  if (length !== undefined && !(Number(length) <= policy.largestBodyBytes)) return pass('tooLarge')
  const lifetimeMs = freshnessMs({ status, headers }) ?? microcacheMs(request, { status, headers }, policy)
  if (lifetimeMs === undefined) return pass('noFreshness')
  if (!cacheableStatuses.has(status) && !(policy.microcache?.statuses.includes(status) ?? false)) return pass('status')
  return { t: 'store', lifetimeMs, without: [...without, ...namesIn(headers, 'connection')], vary: [...new Set(vary)].sort() }
}

function onlySetCookie(fields: readonly string[]): boolean {
  return fields.length > 0 && fields.every((field) => field === 'set-cookie')
}

/** Header names in a list, lower case. */
function namesIn(headers: HeaderValues, list: string): string[] {
  const names = headers.all(list).flatMap((value) => value.split(','))
  return names.map((name) => name.trim().toLowerCase()).filter((name) => name !== '')
}

/** What the server said (RFC 9111, 4.2.1); undefined if it said nothing. */
export function freshnessMs({ headers }: ResponseHead): number | undefined {
  const control = parseCacheControl(headers.all('cache-control'))
  const seconds = deltaSeconds(control, 's-maxage') ?? deltaSeconds(control, 'max-age')
  if (seconds !== undefined) return seconds * 1000
  if (headers.has('expires')) {
    const values = headers.all('expires')
    const expires = values.length === 1 ? parseHttpDate(values[0]) : undefined
    const date = parseHttpDate(headers.get('date'))
    return expires === undefined || date === undefined ? 0 : Math.max(0, expires - date)
  }
  // To be asked each time, which a validator makes worth keeping.
  if (has(control, 'no-cache') && (headers.has('etag') || headers.has('last-modified'))) return 0
  return undefined
}

/** Only for what is the same for everybody as far as anyone can tell: a request without cookies and credentials. */
function microcacheMs(
  { headers: asked }: RequestHead, { status, headers }: ResponseHead, { microcache }: CachePolicy,
): number | undefined {
  if (!microcache?.statuses.includes(status)) return undefined
  if (['cookie', 'authorization'].some((name) => asked.has(name))) return undefined
  if (['set-cookie', 'cache-control', 'pragma'].some((name) => headers.has(name))) return undefined
  return microcache.ttlMs
}
