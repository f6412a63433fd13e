// The filters of a rule or of a backend in the model's terms. A filter that cannot be done is never skipped: the rule (or the
// backend's share) answers 500 instead, since what the filter was to do may be what protects the backend.
import type { CorsFilter, HeaderFilter, PathModifier, RouteFilter } from '../../../model/manifest-route.ts'
import { objectKey } from '../../../model/manifest.ts'
import type { Cors, Fraction, HeaderChange, HttpRule, Mirror, PathRewrite, Redirect } from '../../../model/route.ts'
import { resolveBackend, type RefFailure, type RouteContext } from './backends.ts'
import { given } from './findings.ts'

export interface RuleFilters {
  readonly requestHeaders?: HeaderChange
  readonly responseHeaders?: HeaderChange
  readonly redirect?: Redirect
  readonly rewrite?: NonNullable<HttpRule['rewrite']>
  readonly cors?: Cors
  readonly mirrors: readonly Mirror[]
  /** Keys of objects that configure further filters. */
  readonly filters: readonly string[]
  readonly failures: readonly RefFailure[]
  /** Why requests that it is for must be answered 500. */
  readonly blocked?: string
  /** Likewise, because of what the route says itself rather than of what it names. */
  readonly unsupported?: string
}

export function ruleFilters(list: readonly RouteFilter[], context: RouteContext): RuleFilters {
  const mirrors: Mirror[] = []
  const filters: string[] = []
  const failures: RefFailure[] = []
  let found: Omit<RuleFilters, 'mirrors' | 'filters' | 'failures'> = {}
  for (const each of list) {
    const { requestHeaderModifier, responseHeaderModifier, requestMirror, requestRedirect, urlRewrite, cors, extensionRef } = each
    if (requestHeaderModifier) found = { ...found, requestHeaders: headerChange(requestHeaderModifier) }
    if (responseHeaderModifier) found = { ...found, responseHeaders: headerChange(responseHeaderModifier) }
    if (requestRedirect) {
      const { scheme, hostname, port, path, statusCode } = requestRedirect
      found = { ...found, redirect: given({ scheme, hostname, port, path: path && pathRewrite(path), status: statusCode }) }
    }
    if (urlRewrite) found = {
      ...found, rewrite: given({ hostname: urlRewrite.hostname, path: urlRewrite.path && pathRewrite(urlRewrite.path) }),
    }
    if (cors) found = { ...found, cors: corsOf(cors) }
    if (requestMirror) {
      const { backend, failure } = resolveBackend(requestMirror.backendRef, 1, context)
      const fraction: Fraction = requestMirror.fraction ?? { numerator: requestMirror.percent ?? 100, denominator: 100 }
      // To a mirror that is not there nothing is sent, and the request itself goes its way.
      if (failure) failures.push(failure)
      else if (fraction.numerator > 0) mirrors.push({ backend, fraction })
    }
    if (extensionRef) {
      const failure = extensionFailure(extensionRef, context)
      if (failure) {
        failures.push(failure)
        found = { ...found, blocked: failure.message }
      } else filters.push(`${extensionRef.kind} ${context.route.metadata.namespace}/${extensionRef.name}`)
    }
    if (each.type === 'ExternalAuth') found = {
      ...found,
      unsupported: 'the filter ExternalAuth is not supported, so its requests are answered 500; an AuthorizationPolicy with the action CUSTOM does it',
    }
  }
  return { ...found, mirrors, filters, failures }
}

/** For one backend: only headers can be changed there. */
export function backendFilters(
  list: readonly RouteFilter[],
): Pick<RuleFilters, 'requestHeaders' | 'responseHeaders' | 'blocked'> {
  const other = list.find(({ type }) => type !== 'RequestHeaderModifier' && type !== 'ResponseHeaderModifier')
  const find = (type: 'requestHeaderModifier' | 'responseHeaderModifier'): HeaderChange | undefined => {
    const modifier = list.find((each) => each[type] !== undefined)?.[type]
    return modifier && headerChange(modifier)
  }
  return given({
    requestHeaders: find('requestHeaderModifier'), responseHeaders: find('responseHeaderModifier'),
    blocked: other && `the filter ${other.type} is not supported for a single backend`,
  })
}

function extensionFailure(
  { group, kind, name }: NonNullable<RouteFilter['extensionRef']>, { world, route }: RouteContext,
): RefFailure | undefined {
  if (group !== 'sidestep.dev' || (kind !== 'RateLimitPolicy' && kind !== 'CachePolicy')) {
    return { reason: 'InvalidKind', message: `${kind} of the group ${JSON.stringify(group)} is no filter here` }
  }
  const { namespace } = route.metadata
  return world.filter(kind, namespace, name) ? undefined : { reason: 'BackendNotFound', message: `there is no ${kind} ${namespace}/${name}` }
}

function headerChange({ set, add, remove }: HeaderFilter): HeaderChange {
  const pairs = (list: HeaderFilter['set']): [string, string][] => list.map(({ name, value }) => [name.toLowerCase(), value])
  return { set: pairs(set), add: pairs(add), remove: remove.map((name) => name.toLowerCase()) }
}

function pathRewrite({ replaceFullPath, replacePrefixMatch }: PathModifier): PathRewrite {
  return replaceFullPath === undefined ? { kind: 'prefix', value: replacePrefixMatch ?? '' } : { kind: 'full', value: replaceFullPath }
}

function corsOf({ allowOrigins, allowMethods, allowHeaders, exposeHeaders, maxAge, allowCredentials }: CorsFilter): Cors {
  return {
    allowOrigins: allowOrigins.map((origin) => (origin === '*' ? { kind: 'presence' } : { kind: 'exact', value: plainOrigin(origin) })),
    allowMethods, allowHeaders, exposeHeaders, maxAgeSeconds: maxAge, allowCredentials,
  }
}

/** As browsers write it: lower case, and without the scheme's own port. */
function plainOrigin(origin: string): string {
  const lower = origin.toLowerCase()
  return lower.startsWith('http://') ? lower.replace(/:80$/, '') : lower.replace(/:443$/, '')
}

/** Filters that policies attach to something by `targetRefs`, by `Kind namespace/name[/section]`. */
export function attachedFilters({ world }: Pick<RouteContext, 'world'>): ReadonlyMap<string, readonly string[]> {
  const attached = new Map<string, string[]>()
  for (const policy of world.filters) {
    for (const { kind, name, sectionName } of policy.spec.targetRefs) {
      const key = `${kind} ${policy.metadata.namespace}/${name}${sectionName === undefined ? '' : `/${sectionName}`}`
      attached.set(key, [...(attached.get(key) ?? []), objectKey(policy)])
    }
  }
  return attached
}
