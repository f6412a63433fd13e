// Documents of issuers that live in the mesh: by their service's name through the forwarder, since a waypoint's pod is captured
// by nobody and knows no mesh names. Everything else is fetched outside.
import { MeshError } from '../../core/errors.ts'
import type { NamespacedHostname, Service } from '../../model/workload.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { CallMesh } from './mesh-call.ts'
import type { Fetch } from './outside-fetch.ts'

export interface MeshFetchParts {
  readonly call: CallMesh
  readonly serviceOf: (name: NamespacedHostname) => Service | undefined
  readonly outside: Fetch
}

export function meshFirst({ call, serviceOf, outside }: MeshFetchParts): Fetch {
  return async (url, limits) => {
    const service = url.protocol === 'http:' ? serviceNamed(url.hostname, serviceOf) : undefined
    if (!service) return outside(url, limits)
    const answer = await call({
      service, port: url.port === '' ? 80 : Number(url.port), method: 'GET', authority: url.host,
      target: url.pathname + url.search,
      headers: HeaderMap.of([['accept', 'application/json'], ['user-agent', 'sidestep']]), ...limits,
    })
    if (answer.status !== 200) throw new MeshError(
      'CONNECT_FAILED', `${url.origin}${url.pathname} gives no document: it answered ${answer.status}`, { source: 'upstream' },
    )
    return answer.body.toString('utf8')
  }
}

/** `NAME.NAMESPACE.svc...`; hosts of ServiceEntries are outside anyway. */
function serviceNamed(hostname: string, serviceOf: MeshFetchParts['serviceOf']): Service | undefined {
  const [, namespace, kind] = hostname.split('.')
  return namespace !== undefined && kind === 'svc' ? serviceOf({ namespace, hostname }) : undefined
}
