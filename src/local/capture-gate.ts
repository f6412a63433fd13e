// Which pods are enrolled, as labels say, and whether a pod's containers may start: a pod in the mesh does not send a
// byte before its traffic is captured, unless its owner chose `open`.
import { capturesDns, failureMode, isEnrolled } from '../model/enrolment.ts'
import { readNameSearch } from '../model/resolv-conf.ts'
import { resolvConf } from './environment.ts'
import type { Pod } from './pod.ts'

type Labels = Readonly<Record<string, string>>

/** How long a pod that chose `open` waits for its capture. */
const openWaitMs = 5000

export class CaptureGate {
  readonly #namespaceLabels: (namespace: string) => Labels
  readonly #deadlines = new WeakMap<Pod, number>()

  constructor(namespaceLabels: (namespace: string) => Labels) {
    this.#namespaceLabels = namespaceLabels
  }

  /** Tells the pod's node agent what the labels say now; repeating it is free. Only for pods with a network. */
  enrol(pod: Pod): void {
    const { agent } = pod.options.node
    if (!agent || pod.isTerminating || pod.netns === undefined) return
    const { uid, namespace, name, spec, hostResolvConf } = pod.options
    const labels = this.#namespaceLabels(namespace)
    if (!isEnrolled(labels, pod.labels)) {
      if (agent.stateOf(uid).t !== 'absent') void agent.remove(uid)
      return
    }
    agent.set({
      uid, namespace, name,
      serviceAccount: pod.facts.serviceAccount,
      node: pod.facts.node,
      netns: pod.netns,
      ips: [...pod.facts.ips],
      failureMode: failureMode(labels, pod.labels),
      dns: capturesDns(labels, pod.labels),
      ...((spec.dnsPolicy !== 'ClusterFirst' || spec.dnsConfig) && { nameSearch: readNameSearch(resolvConf(spec, namespace, hostResolvConf)) }),
      probePorts: pod.probePorts,
    })
  }

  /** True at once where nothing is to be captured. With `open`, the pod is asked again when its time is over. */
  mayStart(pod: Pod): boolean {
    const { agent } = pod.options.node
    if (!agent || agent.stateOf(pod.options.uid).t !== 'waiting') return true
    if (failureMode(this.#namespaceLabels(pod.options.namespace), pod.labels) === 'closed') return false
    const now = performance.now()
    const deadline = this.#deadlines.get(pod)
    if (deadline !== undefined) return now >= deadline
    this.#deadlines.set(pod, now + openWaitMs)
    setTimeout(() => pod.recheckCapture(), openWaitMs + 5).unref()
    return false
  }
}
