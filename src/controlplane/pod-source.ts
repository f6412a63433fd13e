// Where facts of run time come from: which pods run where, and which addresses services were given. The local mesh tells them
// within one process; the Kubernetes API will be another source.
import { isDeepStrictEqual } from 'node:util'
import { noRuntimeFacts, type RunningPod, type RuntimeFacts } from '../model/running-pod.ts'

export interface PodListener {
  putPod(pod: RunningPod): void
  removePod(namespace: string, name: string): void
  /** Undefined takes the addresses back. */
  setServiceIps(namespace: string, name: string, ips: readonly string[] | undefined): void
}

export interface PodSource {
  /** Tells all there is before it resolves, and what changes after that. */
  start(listener: PodListener): Promise<void>
  close(): void
}

function split(id: string): readonly [string, string] {
  const slash = id.indexOf('/')
  return [id.slice(0, slash), id.slice(slash + 1)]
}

/** Told by whoever runs pods in the same process: all facts each time, of which only the differences go on. */
export class InProcessPods implements PodSource {
  #facts = noRuntimeFacts
  #listener: PodListener | undefined

  /** May be called before `start`. The facts must not be changed afterwards. */
  update(facts: RuntimeFacts): void {
    const before = this.#facts
    this.#facts = facts
    if (this.#listener) tellDifference(before, facts, this.#listener)
  }

  async start(listener: PodListener): Promise<void> {
    this.#listener = listener
    tellDifference(noRuntimeFacts, this.#facts, listener)
  }

  close(): void {
    this.#listener = undefined
  }
}

/** Tells only what differs. */
export function tellDifference(before: RuntimeFacts, after: RuntimeFacts, listener: PodListener): void {
  for (const id of before.pods.keys()) if (!after.pods.has(id)) listener.removePod(...split(id))
  for (const [id, pod] of after.pods) {
    const last = before.pods.get(id)
    if (last !== pod && !isDeepStrictEqual(last, pod)) listener.putPod(pod)
  }
  for (const id of before.serviceIps.keys()) if (!after.serviceIps.has(id)) listener.setServiceIps(...split(id), undefined)
  for (const [id, ips] of after.serviceIps) {
    if (!isDeepStrictEqual(before.serviceIps.get(id), ips)) listener.setServiceIps(...split(id), ips)
  }
}
