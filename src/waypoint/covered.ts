// Whether a host is one of those that a target outside the cluster stands for. A ServiceEntry opens what it names: a request for
// another Host, or a hello for another server, must not get out by its address. Several hosts may share one address, and then the
// host decides which of them is meant, and with it whose policies hold. Pure.
import { canonicalIp } from '../core/address.ts'
import { serviceKey } from '../model/workload.ts'
import type { NetworkAddress, Service } from '../model/workload.ts'
import { isEntry, isOffered, isPod } from '../policy/egress.ts'
import { hostOf } from '../policy/l7/request-head.ts'
import { declaredProtocol, isBoundHere, serviceOfName } from './accept.ts'
import type { AcceptFacts } from './accept.ts'
import type { ConnectionContext, Target } from './context.ts'
import { admitsHost } from './upstream/endpoint-facts.ts'

/** The target that a host means; undefined where the connection's own does not cover it. `host`: an authority or server name. */
export type Covered = (context: ConnectionContext, host: string | undefined) => Target | undefined

const hostPattern = /^(?:\[[0-9a-f:.]{1,64}\]|[a-z0-9._-]{1,253})$/

export function coveredTarget(
  facts: AcceptFacts, { target, caller }: Pick<ConnectionContext, 'target' | 'caller'>, host: string | undefined,
): Target | undefined {
  if (target.t === 'listener' || !isOutside(target, facts)) return target
  const name = host === undefined ? '' : hostOf(host).toLowerCase()
  if (!hostPattern.test(name)) return undefined
  if (target.t === 'workload') return isNamedThere(target, name, facts) ? target : undefined
  const namespace = caller.identity?.namespace ?? ''
  const meant = serviceOfName(facts.store, name, namespace, target.service.namespace)
  if (meant && serviceKey(meant) === serviceKey(target.service)) return target
  const isOther = meant !== undefined && facts.self !== undefined && sharesAddress(meant, target.service)
    && isBoundHere(meant, facts.self, facts.store) && meant.ports.some(({ servicePort }) => servicePort === target.port)
  if (isOther) return { t: 'service', service: meant, port: target.port }
  return admitsHost(target.service, name) || isAddressOf(name, target.service.addresses) ? target : undefined
}

/** Of TLS to outside the server name is all that says where it goes. */
export function needsServerName(facts: Pick<AcceptFacts, 'store'>, target: Target): boolean {
  return declaredProtocol(facts.store, target) === 'tls' && target.t !== 'listener' && isOutside(target, facts)
}

/** Whether what the client wants is outside the cluster. */
export function isOutside(target: Exclude<Target, { t: 'listener' }>, { store }: Pick<AcceptFacts, 'store'>): boolean {
  if (target.t === 'service') return isEntry(target.service)
  const { workload } = target
  if (workload.tunnelProtocol !== 'none' || isPod(workload)) return false
  return [...workload.services.keys()].every((key) => {
    const service = store.service(key)
    return !service || isEntry(service)
  })
}

function isNamedThere({ workload, port }: Target & { t: 'workload' }, name: string, { store }: AcceptFacts): boolean {
  const ip = canonicalIp(unbracketed(name))
  if (ip !== undefined && workload.ips.includes(ip)) return true
  return [...workload.services.keys()].some((key) => {
    const service = store.service(key)
    const only = new Map([[key, workload.services.get(key) ?? []]])
    return service !== undefined && admitsHost(service, name) && isOffered({ services: only }, port, service, store)
  })
}

function sharesAddress({ addresses }: Service, other: Service): boolean {
  return addresses.some(({ network, ip, prefixLength }) =>
    other.addresses.some((each) => each.network === network && each.ip === ip && each.prefixLength === prefixLength))
}

function isAddressOf(name: string, addresses: readonly NetworkAddress[]): boolean {
  const ip = canonicalIp(unbracketed(name))
  return ip !== undefined && addresses.some((each) => each.prefixLength === undefined && each.ip === ip)
}

function unbracketed(name: string): string {
  return name.startsWith('[') && name.endsWith(']') ? name.slice(1, -1) : name
}
