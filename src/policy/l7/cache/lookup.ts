// What to do with a kept answer: RFC 9111, section 4, with stale-while-revalidate and stale-if-error (RFC 5861). Pure; the
// store and the request upstream belong to the proxy.
import type { HeaderValues, RequestHead } from '../request-head.ts'
import { deltaSeconds, has, parseAge, parseCacheControl, parseHttpDate } from './cache-control.ts'
import type { CachePolicy, ResponseHead } from './storable.ts'

export interface StoredAnswer extends ResponseHead {
  /** When the request for it was sent, and when its head came; milliseconds since 1970. */
  readonly requestedMs: number
  readonly receivedMs: number
  readonly lifetimeMs: number
}

export type CacheUse =
  /** Answer with it, `Age` set. */
  | { readonly t: 'serve'; readonly ageSeconds: number; readonly isStale: boolean }
  /** Answer with it, and ask upstream for the next one. */
  | { readonly t: 'serveAndRevalidate'; readonly ageSeconds: number }
  /** Ask upstream, with these headers if the answer has a validator; a 304 makes it fresh again. */
  | { readonly t: 'revalidate'; readonly conditions: readonly (readonly [name: string, value: string])[] }
  /** 504: the client wants nothing from upstream. */
  | { readonly t: 'onlyIfCached' }

/** RFC 9111, 4.2.3. */
export function ageMs({ headers, requestedMs, receivedMs }: StoredAnswer, nowMs: number): number {
  const date = parseHttpDate(headers.get('date')) ?? receivedMs
  const apparent = Math.max(0, receivedMs - date)
  const corrected = parseAge(headers) * 1000 + Math.max(0, receivedMs - requestedMs)
  return Math.max(apparent, corrected) + Math.max(0, nowMs - receivedMs)
}

export function decideUse(stored: StoredAnswer | undefined, request: RequestHead, policy: CachePolicy, nowMs: number): CacheUse {
  const asked = parseCacheControl(policy.heedsRequests ? request.headers.all('cache-control') : [])
  const isOnlyCached = has(asked, 'only-if-cached')
  if (!stored) return isOnlyCached ? { t: 'onlyIfCached' } : { t: 'revalidate', conditions: [] }
  const control = parseCacheControl(stored.headers.all('cache-control'))
  const age = ageMs(stored, nowMs)
  const ageSeconds = Math.floor(age / 1000)
  const pragma = policy.heedsRequests && asked.directives.size === 0
    && request.headers.get('pragma')?.toLowerCase().includes('no-cache') === true
  const mustAsk = has(control, 'no-cache') || has(asked, 'no-cache') || pragma
  const maxAge = deltaSeconds(asked, 'max-age')
  const minFresh = (deltaSeconds(asked, 'min-fresh') ?? 0) * 1000
  const isFresh = age + minFresh < stored.lifetimeMs && (maxAge === undefined || age <= maxAge * 1000)
  if (!mustAsk && isFresh) return { t: 'serve', ageSeconds, isStale: false }
  const staleMs = age - stored.lifetimeMs
  if (!mustAsk && !isStaleForbidden(control) && minFresh === 0 && maxAge === undefined) {
    const revalidateMs = windowMs(control, 'stale-while-revalidate', policy.staleWhileRevalidateMs)
    if (staleMs < revalidateMs) return { t: 'serveAndRevalidate', ageSeconds }
    const maxStale = asked.directives.get('max-stale')
    if (maxStale !== undefined
      && (maxStale === '' || staleMs <= (deltaSeconds(asked, 'max-stale') ?? 0) * 1000)) return { t: 'serve', ageSeconds,
        isStale: true }
  }
  return isOnlyCached ? { t: 'onlyIfCached' } : { t: 'revalidate', conditions: conditionsOf(stored.headers) }
}

/** Whether a kept answer may stand in for an error: 500, 502, 503, 504, or no answer at all (`status` undefined). */
export function mayServeOnError(stored: StoredAnswer, status: number | undefined, policy: CachePolicy, nowMs: number): boolean {
  if (status !== undefined && ![500, 502, 503, 504].includes(status)) return false
  const control = parseCacheControl(stored.headers.all('cache-control'))
  if (isStaleForbidden(control) || has(control, 'no-cache')) return false
  return ageMs(stored, nowMs) - stored.lifetimeMs < windowMs(control, 'stale-if-error', policy.staleIfErrorMs)
}

/** RFC 9111, 4.2.4 and 5.2.2.10: s-maxage means proxy-revalidate. */
function isStaleForbidden(control: ReturnType<typeof parseCacheControl>): boolean {
  return has(control, 'must-revalidate') || has(control, 'proxy-revalidate') || has(control, 's-maxage')
}

function windowMs(control: ReturnType<typeof parseCacheControl>, name: string, defaultMs: number | undefined): number {
  const said = deltaSeconds(control, name)
  return said === undefined ? (defaultMs ?? 0) : said * 1000
}

function conditionsOf(headers: HeaderValues): (readonly [string, string])[] {
  const etag = headers.get('etag')
  const modified = headers.get('last-modified')
  return [
    ...(etag === undefined ? [] : [['if-none-match', etag] as const]),
    ...(modified === undefined || parseHttpDate(modified) === undefined ? [] : [['if-modified-since', modified] as const]),
  ]
}

/** Whether a client that asks with conditions has the kept answer already: then 304 (RFC 9110, 13.2.2; weak comparison). */
export function isNotModified({ headers: asked }: RequestHead, { status, headers }: ResponseHead): boolean {
  if (status !== 200) return false
  const wanted = asked.get('if-none-match')
  if (wanted !== undefined) {
    const etag = headers.get('etag')
    if (wanted.trim() === '*') return true
    return etag !== undefined && (wanted.match(/(?:W\/)?"[^"]*"/g) ?? []).some((each) => opaque(each) === opaque(etag))
  }
  const since = parseHttpDate(asked.get('if-modified-since'))
  const modified = parseHttpDate(headers.get('last-modified'))
  return since !== undefined && modified !== undefined && modified <= since
}

const opaque = (etag: string): string => (etag.startsWith('W/') ? etag.slice(2) : etag)

// RFC 9111, 3.2: a 304 says nothing about these of the kept answer.
const keptOn304 = new Set(['content-length', 'content-encoding', 'content-type', 'content-range', 'transfer-encoding',
  'connection', 'keep-alive',
  'te', 'trailer', 'upgrade', 'set-cookie'])

/** Headers of a kept answer after a 304, for `set`: each name replaces all of its values. */
export function refreshedHeaders(notModified: HeaderValues & { entries(): IterableIterator<readonly [string,
  string]> }): (readonly [string, string])[] {
  return [...notModified.entries()].filter(([name]) => !keptOn304.has(name))
}
