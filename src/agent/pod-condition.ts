// What a pod's condition says, from what is so: pure. Nothing is said of pods that have nothing to do with the mesh, nor of what may be
// over in a moment.
import type { CaptureState } from './enrolment-agent.ts'
import type { Condition, NotCaptured } from './conditions.ts'
import type { Ineligible } from './node-pod.ts'
import type { Entry } from './pod-entry.ts'

/** A pod that starts is given that long before anything is said. */
const startGraceMs = 5_000
/** One that was captured is not reported for a ztunnel or an agent that restarts: what is pinned stays in force. */
const restartGraceMs = 60_000

const ineligible: Readonly<Record<Ineligible, string>> = {
  HostNetwork: 'it uses the network of its node, which no mesh can tell from the node itself',
  HasSidecar: 'it has a sidecar of Istio, which carries its traffic',
  StaticPod: 'the kubelet reads it from a file, so that it has no service account and no identity',
  SystemNamespace: 'it is in the namespace of the mesh itself',
}

/** Undefined where nothing is to be said (any more than was said). `uncapturedMs`: since when it should be captured and is not. */
export function conditionOf(entry: Pick<Entry, 'pod' | 'wish' | 'proven' | 'missing' | 'lost' | 'hasBeenCaptured'>, capture: CaptureState, isConnected: boolean, uncapturedMs: number): Condition | undefined {
  const { pod, wish } = entry
  switch (wish.t) {
    case 'wanted': break
    case 'ineligible': return no(wish.reason, ineligible[wish.reason])
    case 'ended': return pod.condition?.status === 'True' ? no('PodEnded', 'its containers have ended') : keep(entry)
    case 'outside': return entry.hasBeenCaptured || pod.condition ? no('NotInMesh', 'no label asks for it') : undefined
    default: return wish satisfies never
  }
  if (entry.lost !== undefined) return no('CaptureLost', `the audit could not restore its capture: ${entry.lost}`)
  if (entry.proven && capture.t === 'captured') return { status: 'True', reason: 'Captured', message: 'its traffic is carried by the mesh' }
  const wasCaptured = entry.hasBeenCaptured || pod.condition?.status === 'True'
  if (uncapturedMs < (wasCaptured ? restartGraceMs : startGraceMs)) return undefined
  if (!entry.proven) return no(entry.missing?.reason ?? 'NetworkNamespaceNotFound', entry.missing?.because ?? 'its network namespace is not found yet')
  return no(isConnected ? 'ZtunnelRefused' : 'ZtunnelAway', capture.t === 'waiting' ? capture.because : 'the ztunnel of its node has not confirmed its capture')
}

function no(reason: NotCaptured, message: string): Condition {
  return { status: 'False', reason, message }
}

/** What stands there about an ended pod may stay. */
function keep(entry: Pick<Entry, 'hasBeenCaptured'>): Condition | undefined {
  return entry.hasBeenCaptured ? no('PodEnded', 'its containers have ended') : undefined
}
