// What is not told to machines outside the mesh: who asks, and from which address inside.
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { EndpointFacts } from './endpoint-facts.ts'

const inside = ['x-forwarded-client-cert', 'x-forwarded-for', 'x-sidestep-source-identity']

/** Nobody of the mesh runs it: a host by its name, or an endpoint that no node has and that takes no tunnel. */
export function isOutside({ workload }: Pick<EndpointFacts, 'workload'>): boolean {
  return workload === undefined || (workload.node === '' && workload.tunnelProtocol === 'none')
}

/** The headers as they are, or a copy without what stays inside. */
export function headersFor(facts: Pick<EndpointFacts, 'workload'>, headers: HeaderMap): HeaderMap {
  if (!isOutside(facts) || !inside.some((name) => headers.has(name))) return headers
  const copy = headers.copy()
  for (const name of inside) copy.delete(name)
  return copy
}
