// Which identities run on which node, for the certificate authority: it signs for a node only what the node runs, and only for
// pods that are to be in the mesh.
import type { Identity } from '../core/identity.ts'
import { isEnrolled } from '../model/enrolment.ts'
import type { RunningPod } from '../model/running-pod.ts'

type Labels = Readonly<Record<string, string>>

export class Residents {
  readonly #namespaceLabels: (namespace: string) => Labels
  readonly #readsIstio: boolean
  readonly #pods = new Map<string, RunningPod>()
  /** Pods of a node and account. */
  readonly #byAccount = new Map<string, Set<string>>()

  constructor(namespaceLabels: (namespace: string) => Labels, readsIstio = false) {
    this.#namespaceLabels = namespaceLabels
    this.#readsIstio = readsIstio
  }

  putPod(pod: RunningPod): void {
    this.removePod(pod.namespace, pod.name)
    const id = `${pod.namespace}/${pod.name}`
    this.#pods.set(id, pod)
    const account = accountKey(pod.node, pod.namespace, pod.serviceAccount)
    const pods = this.#byAccount.get(account)
    if (pods) pods.add(id)
    else this.#byAccount.set(account, new Set([id]))
  }

  removePod(namespace: string, name: string): void {
    const id = `${namespace}/${name}`
    const pod = this.#pods.get(id)
    if (!pod) return
    this.#pods.delete(id)
    const account = accountKey(pod.node, pod.namespace, pod.serviceAccount)
    const pods = this.#byAccount.get(account)
    pods?.delete(id)
    if (pods?.size === 0) this.#byAccount.delete(account)
  }

  /** True, or why the node must not have a certificate of that identity. The trust domain is not looked at. */
  mayHave(node: string, { namespace, serviceAccount }: Identity): true | string {
    const pods = this.#byAccount.get(accountKey(node, namespace, serviceAccount))
    if (!pods) return `no pod of the service account ${namespace}/${serviceAccount} runs on node ${node}`
    const labels = this.#namespaceLabels(namespace)
    for (const id of pods) if (isEnrolled(labels, this.#pods.get(id)?.labels ?? {}, this.#readsIstio)) return true
    return `no pod of the service account ${namespace}/${serviceAccount} on node ${node} is labelled to be in the mesh`
  }
}

function accountKey(node: string, namespace: string, serviceAccount: string): string {
  return `${node} ${namespace}/${serviceAccount}`
}
