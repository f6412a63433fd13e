// Which running pods are a gateway's (a waypoint or an ingress), and whether the holder of a pod's token is such a pod. Decided
// from what whoever runs pods tells, never from what the caller says of itself.
import { isDeepStrictEqual } from 'node:util'
import { hasNativeTunnel } from '../model/enrolment.ts'
import { gatewayNameLabel } from '../model/gateway-labels.ts'
import type { RunningPod } from '../model/running-pod.ts'
import type { GatewayName } from '../model/waypoint-config.ts'
import type { TokenHolder, TokenPod } from '../pki/tokens.ts'
import type { PodListener, PodSource } from './pod-source.ts'

/** `namespace/name` to pod, as RuntimeFacts has them. */
export type RunningPods = ReadonlyMap<string, RunningPod>

/** A Kubernetes name: what is none could be a path, or the prefix of another gateway's resources. */
const kubernetesName = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/

export function isKubernetesName(name: string): boolean {
  return kubernetesName.test(name) && !name.includes('..')
}

/** The gateway of its own namespace that the pod's label names, if it takes tunnels itself as gateways do. */
export function gatewayOfPod({ namespace, labels }: Pick<RunningPod, 'namespace' | 'labels'>): GatewayName | undefined {
  const name = Object.hasOwn(labels, gatewayNameLabel) ? labels[gatewayNameLabel] : undefined
  if (name === undefined || !isKubernetesName(name) || !isKubernetesName(namespace) || !hasNativeTunnel(labels)) return undefined
  return { namespace, name }
}

export type GatewayPodVerdict = { readonly ok: true; readonly gateway: GatewayName } | { readonly ok: false; readonly because: string }

/** Whether the pod that a token was made for still runs, where and as what the token says, and belongs to a gateway. */
export function gatewayPodOf({ node, pod }: Pick<TokenHolder, 'node'> & { readonly pod: TokenPod }, pods: RunningPods): GatewayPodVerdict {
  const id = `${pod.namespace}/${pod.name}`
  const running = pods.get(id)
  if (running?.uid !== pod.uid) return { ok: false, because: `the pod ${id} that the token was made for does not run any more` }
  if (running.node !== node) return { ok: false, because: `the pod ${id} does not run on node ${node}` }
  if (running.serviceAccount !== pod.serviceAccount) return { ok: false, because: `the pod ${id} does not run as ${pod.serviceAccount}` }
  const gateway = gatewayOfPod(running)
  return gateway ? { ok: true, gateway } : { ok: false, because: `the pod ${id} belongs to no gateway` }
}

/** A gateway's pod as its token names it. */
export interface GatewayPod {
  readonly gateway: GatewayName
  readonly node: string
  readonly pod: TokenPod
}

export interface GatewayPodListener {
  appeared(pod: GatewayPod): void
  /** It ended, or something of it is different now; then it appears again. */
  gone(pod: GatewayPod): void
  /** All there are were told. */
  synced(): void
}

/** The same source; who listens here hears of gateways' pods beside. */
export function watchGatewayPods(source: PodSource, listener: GatewayPodListener): PodSource {
  const known = new Map<string, GatewayPod>()
  const set = (id: string, pod: GatewayPod | undefined): void => {
    const before = known.get(id)
    if (isDeepStrictEqual(before, pod)) return
    known.delete(id)
    if (before) listener.gone(before)
    if (!pod) return
    known.set(id, pod)
    listener.appeared(pod)
  }
  const tee = (other: PodListener): PodListener => ({
    putPod: (pod) => {
      other.putPod(pod)
      set(`${pod.namespace}/${pod.name}`, gatewayPod(pod))
    },
    removePod: (namespace, name) => {
      other.removePod(namespace, name)
      set(`${namespace}/${name}`, undefined)
    },
    setServiceIps: (namespace, name, ips) => other.setServiceIps(namespace, name, ips),
  })
  return {
    start: async (other) => {
      await source.start(tee(other))
      listener.synced()
    },
    close: () => source.close(),
  }
}

function gatewayPod(running: RunningPod): GatewayPod | undefined {
  const gateway = gatewayOfPod(running)
  if (!gateway) return undefined
  const { namespace, name, serviceAccount, uid, node } = running
  return { gateway, node, pod: { namespace, name, serviceAccount, uid } }
}
