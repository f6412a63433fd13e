// TCPRoute and TLSRoute rules in the model's terms, in the order in which they are tried: the most specific server name first, then
// the older route. Backends that may not be used keep their share, and connections that fall to it are refused.
import type { StreamRouteRule } from '../../../model/manifest-route.ts'
import { objectKey, type TcpRouteManifest, type TlsRouteManifest } from '../../../model/manifest.ts'
import type { TcpRule } from '../../../model/route.ts'
import { resolveBackend, type RefFailure, type RouteContext } from './backends.ts'
import { bySpecificity } from './hostnames.ts'
import { byAgeAndName } from './order.ts'

export interface StreamEntry {
  readonly route: TcpRouteManifest | TlsRouteManifest
  readonly ruleIndex: number
  /** Undefined for every name. */
  readonly hostname: string | undefined
  readonly rule: TcpRule
}

/** `hostnames` are those that the route has where it is attached. */
export function streamEntries(
  route: TcpRouteManifest | TlsRouteManifest, hostnames: readonly (string | undefined)[], context: RouteContext, callers: string | undefined,
): { readonly entries: readonly StreamEntry[]; readonly failures: readonly RefFailure[] } {
  const failures: RefFailure[] = []
  const entries = route.spec.rules.flatMap((spec: StreamRouteRule, ruleIndex) => {
    const backends = spec.backendRefs.map((ref) => {
      const { backend, failure } = resolveBackend(ref, ref.weight, context)
      if (failure) failures.push(failure)
      return backend
    })
    return hostnames.map((hostname): StreamEntry => ({
      route, ruleIndex, hostname,
      rule: {
        origin: objectKey(route), name: spec.name ?? String(ruleIndex), serverNames: hostname === undefined ? [] : [hostname], backends,
        ...(callers === undefined ? {} : { sourceNamespaces: [callers] }),
      },
    }))
  })
  return { entries, failures }
}

export function orderStreams(entries: readonly StreamEntry[]): readonly TcpRule[] {
  return [...entries]
    .sort((a, b) => bySpecificity(a.hostname, b.hostname) || byAgeAndName(a.route, b.route) || a.ruleIndex - b.ruleIndex)
    .map(({ rule }) => rule)
}
