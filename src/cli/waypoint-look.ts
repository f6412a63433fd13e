// What can be found out about one waypoint: from the daemon its pods, from the control plane what is not in force, and from a
// ztunnel for whom it really stands in the way.
import { z } from 'zod'
import type { GatewayStatus, LocalStatus, PodStatus } from '../model/local-status.ts'
import { serviceViewSchema, workloadViewSchema } from '../model/ztunnel-views.ts'
import { askZtunnel } from './ztunnel-client.ts'
import { localAddress } from './ztunnel-targets.ts'

/** Of a proxy's `/state`: what is worth showing here. */
const proxyStateSchema = z.object({
  xds: z.object({ state: z.string(), because: z.string() }),
  certificates: z.object({ ready: z.int(), soonestExpiry: z.string() }),
  tunnels: z.object({ connections: z.int() }),
  streams: z.object({ open: z.int(), limit: z.int() }),
  memory: z.object({ rss: z.int() }),
})
export type ProxyState = z.infer<typeof proxyStateSchema>

export interface PodLook extends Pick<PodStatus, 'name' | 'node' | 'ips' | 'phase' | 'ready' | 'reason' | 'restarts'> {
  /** As it says itself; absent where it does not answer. */
  readonly says?: ProxyState
}

export interface WaypointLook {
  readonly gateway: GatewayStatus
  /** All pods that are wanted are ready, and nothing is wrong with it. */
  readonly ready: boolean
  readonly pods: readonly PodLook[]
  /** As a ztunnel sends connections; absent where none answers. */
  readonly bound?: BoundThings
  readonly problems: readonly string[]
}

export interface BoundThings {
  /** `namespace/name`. */
  readonly services: readonly string[]
  readonly workloads: readonly string[]
}

export async function lookAtWaypoint(status: LocalStatus, gateway: GatewayStatus): Promise<WaypointLook> {
  const id = `${gateway.namespace}/${gateway.name}`
  const names = new Set(gateway.admin.map(({ pod }) => pod))
  const own = status.pods.filter((pod) => pod.namespace === gateway.namespace && names.has(pod.name))
  const pods = await Promise.all(own.map(async ({ name, node, ips, phase, ready, reason, restarts }): Promise<PodLook> => {
    const says = await stateOf(gateway.admin.find(({ pod }) => pod === name)?.socket)
    return { name, node, ips, phase, ready, reason, restarts, ...(says && { says }) }
  }))
  const bound = await boundBy(status, gateway)
  const wrong = notInForce(status, `Gateway ${id}`)
  // What concerns those who ask for it, or names it.
  const others = [...gateway.usedBy.flatMap((key) => notInForce(status, key)), ...naming(status, id)]
  const problems = [...new Set([...wrong, ...others])]
  return { gateway, ready: gateway.replicas > 0 && gateway.ready >= gateway.replicas && wrong.length === 0, pods, problems, ...(bound && { bound }) }
}

async function stateOf(socket: string | undefined): Promise<ProxyState | undefined> {
  try {
    return socket === undefined ? undefined : await askZtunnel(socket, proxyStateSchema, '/state')
  } catch {
    // Starting, or ending: its pod's state says which.
    return undefined
  }
}

/** Reasons why an object is not in force as written, with its name; of the daemon's own as well. */
export function notInForce({ problems, controlPlane }: LocalStatus, key: string): string[] {
  const refused = controlPlane.report?.refused.filter(({ object }) => object === key).flatMap(({ object, reasons }) => reasons.map((reason) => `${object}: ${reason}`)) ?? []
  return [...problems.filter(({ reason }) => reason.startsWith(`${key}: `)).map(({ reason }) => reason), ...refused]
}

function naming({ controlPlane }: LocalStatus, id: string): string[] {
  const refused = controlPlane.report?.refused ?? []
  return refused.flatMap(({ object, reasons }) => reasons.filter((reason) => new RegExp(`(^|[^a-z0-9.-])${id.replaceAll('.', '\\.')}([^a-z0-9/-]|$)`).test(reason)).map((reason) => `${object}: ${reason}`))
}

export async function boundBy({ name, nodes }: LocalStatus, gateway: GatewayStatus): Promise<BoundThings | undefined> {
  for (const node of nodes) {
    if (node.ztunnel !== 'connected') continue
    try {
      const address = localAddress(name, node.name)
      const [services, workloads] = await Promise.all([askZtunnel(address, z.array(serviceViewSchema), '/services'), askZtunnel(address, z.array(workloadViewSchema), '/workloads')])
      const isIt = (waypoint: string): boolean => waypoint.split('/').at(-1)?.startsWith(`${gateway.name}.${gateway.namespace}.`) === true
      const names = (list: readonly { readonly namespace: string; readonly name: string; readonly waypoint: string }[]): string[] =>
        [...new Set(list.filter(({ waypoint }) => isIt(waypoint)).map((each) => `${each.namespace}/${each.name}`))].sort()
      return { services: names(services), workloads: names(workloads) }
    } catch {
      // Another node's ztunnel knows the same.
    }
  }
  return undefined
}
