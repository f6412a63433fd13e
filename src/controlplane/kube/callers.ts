// Who calls the control plane on Kubernetes: the API server is asked whose token it is, and for our audience. Only tokens that are
// bound to a pod count. Those of our own node proxies speak for the node of their pod, which the API server names; all others speak
// for their one pod, and whether that is a gateway's is asked where the pods are known. Refusals tell the reason, never the token.
import { MeshError, describeError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import type { ReviewRefusal, ReviewVerdict, ServiceAccountHolder } from '../../kube/token-review.ts'
import { ztunnelName } from '../../model/kubernetes-names.ts'
import { otherCluster, type CallerCheck, type CallerVerdict } from '../callers.ts'
import type { RunningPods } from '../gateway-pods.ts'
import { StrangerLimit } from './stranger-limit.ts'

export interface KubeCallersOptions {
  readonly reviewer: { review(token: string): Promise<ReviewVerdict> }
  /** In which our node proxies run. */
  readonly namespace: string
  readonly clusterId: string
  readonly pods: () => RunningPods
  readonly logger: Logger
  readonly limit?: StrangerLimit
}

const sentences: Readonly<Record<ReviewRefusal, string>> = {
  malformed: 'the token is none of Kubernetes',
  wrongAudience: 'the token is for another audience',
  expired: 'the token has expired',
  refused: 'the Kubernetes API does not know the token: expired, its pod is gone, or of another cluster',
  notAServiceAccount: 'the token is of no service account',
}

export function kubeCallerCheck({ reviewer, namespace, clusterId, pods, logger, limit = new StrangerLimit() }: KubeCallersOptions): CallerCheck {
  return async (metadata, peer) => {
    const token = /^Bearer +(\S+)$/i.exec(metadata.get('authorization') ?? '')?.[1]
    if (token === undefined) return refused('there is no bearer token in the call')
    const other = otherCluster(metadata, clusterId)
    if (other) return other
    if (!limit.mayAsk(peer)) return refused('too many calls with bad tokens came from this address, try again later')
    let verdict: ReviewVerdict
    try {
      verdict = await reviewer.review(token)
    } catch (error) {
      logger.warn({ 'peer.addr': peer, because: describeError(error) }, 'token of a caller cannot be reviewed')
      const isBusy = error instanceof MeshError && error.code === 'OVERLOADED'
      return refused(isBusy ? 'too many tokens are being reviewed, try again' : 'the Kubernetes API cannot be asked about the token now, try again')
    }
    if (verdict.ok) return holderOf(verdict, namespace, pods())
    // What is seen without asking costs nobody anything.
    if (verdict.because !== 'malformed' && verdict.because !== 'expired') limit.wasRefused(peer)
    return refused(sentences[verdict.because])
  }
}

function refused(because: string): CallerVerdict {
  return { ok: false, code: 'unauthenticated', because }
}

function holderOf(holder: ServiceAccountHolder, ownNamespace: string, pods: RunningPods): CallerVerdict {
  const { namespace, serviceAccount, pod } = holder
  // One that is not bound to a pod stays good wherever it is taken.
  if (!pod) return { ok: false, code: 'permissionDenied', because: `the token of ${namespace}/${serviceAccount} is not bound to a pod` }
  const id = `${namespace}/${pod.name}`
  const known = pods.get(id)
  const running = known?.uid === pod.uid ? known : undefined
  if (running && holder.node !== undefined && running.node !== holder.node) {
    return { ok: false, code: 'permissionDenied', because: `the token says that the pod ${id} is on node ${holder.node}, but it is on ${running.node}` }
  }
  const node = holder.node ?? running?.node
  if (node === undefined) return { ok: false, code: 'permissionDenied', because: `the token names no node, and the pod ${id} is not known to run` }
  if (namespace === ownNamespace && serviceAccount === ztunnelName) return { ok: true, node, subject: `ztunnel ${id}` }
  return { ok: true, node, subject: `pod ${id}`, pod: { namespace, name: pod.name, serviceAccount, uid: pod.uid } }
}
