// All L4 policies of the mesh, found by key and by scope without walking the others. The lists it hands out are frozen
// values: a list is replaced, never changed, so whatever was compiled from one can be kept with it.
import { isDeepStrictEqual } from 'node:util'
import { policyKey, type Authorization } from './authorization.ts'
import type { Workload } from './workload.ts'

const none: readonly Authorization[] = Object.freeze([])

/** Sorted by key, made when asked for and kept until the next change. */
class Bucket {
  readonly #byKey = new Map<string, Authorization>()
  #list: readonly Authorization[] | undefined

  set(key: string, policy: Authorization): void {
    this.#byKey.set(key, policy)
    this.#list = undefined
  }

  /** True if nothing is left. */
  delete(key: string): boolean {
    this.#byKey.delete(key)
    this.#list = undefined
    return this.#byKey.size === 0
  }

  list(): readonly Authorization[] {
    this.#list ??= Object.freeze([...this.#byKey].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, policy]) => policy))
    return this.#list
  }
}

export class PolicyIndex {
  readonly #byKey = new Map<string, Authorization>()
  readonly #global = new Bucket()
  readonly #byNamespace = new Map<string, Bucket>()
  #version = 0

  /** Grows with each change. */
  get version(): number {
    return this.#version
  }

  get size(): number {
    return this.#byKey.size
  }

  get(key: string): Authorization | undefined {
    return this.#byKey.get(key)
  }

  values(): IterableIterator<Authorization> {
    return this.#byKey.values()
  }

  /** Policies for every workload, ordered by key. */
  global(): readonly Authorization[] {
    return this.#global.list()
  }

  /** Policies for every workload of the namespace, ordered by key. */
  inNamespace(namespace: string): readonly Authorization[] {
    return this.#byNamespace.get(namespace)?.list() ?? none
  }

  /** What was there before; the same object as `policy` if nothing changed. */
  upsert(policy: Authorization): Authorization | undefined {
    const key = policyKey(policy)
    const before = this.#byKey.get(key)
    if (before && isDeepStrictEqual(before, policy)) return policy
    if (before) this.#unlink(key, before)
    this.#byKey.set(key, policy)
    this.#bucket(policy)?.set(key, policy)
    this.#version++
    return before
  }

  /** What was removed. */
  remove(key: string): Authorization | undefined {
    const before = this.#byKey.get(key)
    if (!before) return undefined
    this.#unlink(key, before)
    this.#byKey.delete(key)
    this.#version++
    return before
  }

  #bucket({ scope, namespace }: Authorization): Bucket | undefined {
    if (scope === 'global') return this.#global
    if (scope === 'workloadSelector') return undefined
    let bucket = this.#byNamespace.get(namespace)
    if (!bucket) this.#byNamespace.set(namespace, (bucket = new Bucket()))
    return bucket
  }

  #unlink(key: string, policy: Authorization): void {
    const isEmpty = this.#bucket(policy)?.delete(key)
    if (isEmpty && policy.scope === 'namespace') this.#byNamespace.delete(policy.namespace)
  }
}

/** Whether a change of the policy can change verdicts for a workload of that namespace which names these policies. */
export function policyApplies(policy: Authorization, workload: Pick<Workload, 'namespace' | 'policies'>): boolean {
  if (policy.scope === 'global') return true
  if (policy.scope === 'namespace' && policy.namespace === workload.namespace) return true
  return workload.policies.includes(policyKey(policy))
}
