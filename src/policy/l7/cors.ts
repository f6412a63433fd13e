// Cross-origin requests (Fetch standard, section 3.2): what to answer a preflight, and what to add to a response. An origin
// that is not allowed gets no header, which makes browsers refuse; the request itself is not refused, because CORS is no access
// control.
import type { Cors } from '../../model/route.ts'
import type { HeaderValues, RequestHead } from './request-head.ts'
import { compileValue, type ValueTest } from './value-match.ts'

export type HeaderList = readonly (readonly [name: string, value: string])[]

export type CorsDecision =
  /** Answer now with 204 (or 200) and these headers. */
  | { readonly t: 'preflight'; readonly isAllowed: boolean; readonly headers: HeaderList }
  /** Send on, drop the backend's own `Access-Control-` headers, and put these on the response. */
  | { readonly t: 'simple'; readonly headers: HeaderList }
  /** No browser's cross-origin request; the response still varies by origin. */
  | { readonly t: 'none'; readonly headers: HeaderList }

export interface CompiledCors {
  decide(head: RequestHead): CorsDecision
}

const varyOrigin: HeaderList = [['vary', 'Origin']]
const longestOrigin = 300

/** Throws MeshError BAD_CONFIG for a bad pattern. */
export function compileCors(cors: Cors): CompiledCors {
  const isAny = cors.allowOrigins.some((m) => m.kind === 'presence' || (m.kind === 'exact' && m.value === '*'))
  const tests = cors.allowOrigins.filter((m) => m.kind !== 'presence').map(originTest)
  const exposed = cors.exposeHeaders.join(', ')
  // Where everybody is allowed and no cookies are, one answer serves all and can be cached for all.
  const isConstant = isAny && !cors.allowCredentials
  const vary = isConstant ? [] : varyOrigin

  const allowedOrigin = (origin: string): string | undefined => {
    if (origin.length > longestOrigin || !/^[\x21-\x7e]+$/.test(origin)) return undefined
    if (isConstant) return '*'
    return isAny || tests.some((test) => test(origin)) ? origin : undefined
  }
  const shared = (allowed: string): HeaderList => [
    ['access-control-allow-origin', allowed],
    ...(cors.allowCredentials ? [['access-control-allow-credentials', 'true'] as const] : []),
    // In preflights browsers read no such thing; Gateway API's conformance suite and others' proxies have it there.
    ...(exposed === '' ? [] : [['access-control-expose-headers', exposed] as const]),
  ]
  const preflight = (headers: HeaderValues, allowed: string | undefined): CorsDecision => {
    const method = headers.get('access-control-request-method') ?? ''
    const varyAll: HeaderList = [['vary', 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers']]
    if (allowed === undefined || !isMethodAllowed(cors, method)) return { t: 'preflight', isAllowed: false, headers: varyAll }
    const allowHeaders = headersFor(cors, headers.get('access-control-request-headers'))
    return {
      t: 'preflight', isAllowed: true,
      headers: [
        ...shared(allowed), ['access-control-allow-methods', methodsFor(cors, method)],
        ...(allowHeaders === '' ? [] : [['access-control-allow-headers', allowHeaders] as const]),
        ...(cors.maxAgeSeconds === undefined ? [] : [['access-control-max-age', String(cors.maxAgeSeconds)] as const]),
        ...varyAll,
      ],
    }
  }

  return {
    decide({ method, headers }) {
      const origin = headers.get('origin')
      if (origin === undefined) return { t: 'none', headers: vary }
      const allowed = allowedOrigin(origin)
      if (method === 'OPTIONS' && headers.has('access-control-request-method')) return preflight(headers, allowed)
      if (allowed === undefined) return { t: 'none', headers: vary }
      return { t: 'simple', headers: [...shared(allowed), ...vary] }
    },
  }
}

/** `https://*.example.com` holds for labels before the dot; hosts and schemes have no case. */
function originTest(match: Cors['allowOrigins'][number]): ValueTest {
  if (match.kind === 'exact') {
    const value = match.value.toLowerCase()
    const star = value.indexOf('*')
    if (star < 0) return (origin) => origin.toLowerCase() === value
    const head = value.slice(0, star)
    const tail = value.slice(star + 1)
    return (origin) => {
      const lower = origin.toLowerCase()
      return lower.length > head.length + tail.length && lower.startsWith(head) && lower.endsWith(tail)
        && /^[a-z0-9._-]+$/.test(lower.slice(head.length, lower.length - tail.length))
    }
  }
  const test = compileValue(match)
  return (origin) => test(origin)
}

// With credentials `*` means nothing to a browser, so the names themselves are given.
function isMethodAllowed({ allowMethods }: Cors, method: string): boolean {
  return /^[A-Za-z]{1,32}$/.test(method)
    && (allowMethods.includes('*') || allowMethods.includes(method) || ['GET', 'HEAD', 'POST'].includes(method))
}

function methodsFor({ allowMethods, allowCredentials }: Cors, method: string): string {
  if (allowMethods.includes('*')) return allowCredentials ? method : '*'
  return allowMethods.length === 0 ? method : allowMethods.join(', ')
}

function headersFor({ allowHeaders, allowCredentials }: Cors, asked: string | undefined): string {
  if (!allowHeaders.includes('*')) return allowHeaders.join(', ')
  if (!allowCredentials && !/(?:^|[ ,])authorization(?:$|[ ,])/i.test(asked ?? '')) return '*'
  return asked !== undefined && asked.length <= 4_096 && /^[A-Za-z0-9\-_, ]*$/.test(asked) ? asked : ''
}
