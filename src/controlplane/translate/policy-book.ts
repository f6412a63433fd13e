// All policies of the mesh, kept translated: what ztunnels enforce, and which of it each workload names. A change tells whose
// list of names may have changed, so that only those workloads are translated again.
import { isDeepStrictEqual } from 'node:util'
import type { Authorization } from '../../model/authorization.ts'
import { policyKey } from '../../model/authorization.ts'
import { objectKey, type AuthorizationPolicyManifest, type PeerAuthenticationManifest } from '../../model/manifest.ts'
import { oldest } from './age.ts'
import { selectorOf, translateAuthorizationPolicy } from './authorization-policy.ts'
import { convertedPolicy, convertedPrefix, effectiveMode, peerPolicyKey, peerRemarks, peerScope, strictPolicy, type EffectiveMode } from './peer-authentication.ts'
import { getOrMake, SelectorIndex } from './selectors.ts'
import { noRemarks, type Remarks, type TranslateSettings } from './settings.ts'

type Labels = Readonly<Record<string, string>>

export interface PolicyListener {
  /** Undefined if it is gone. Told only when it is another than before. */
  authorization(key: string, policy: Authorization | undefined): void
  /** Workloads with these labels (all without any) of this namespace (all without one) may name other policies now. */
  workloads(namespace: string | undefined, labels: Labels | undefined): void
  remarks(objectKey: string, remarks: Remarks): void
}

export class PolicyBook {
  readonly #settings: TranslateSettings
  readonly #listener: PolicyListener
  readonly #outputs = new Map<string, Authorization>()
  /** AuthorizationPolicies that select, by the key of their output. */
  readonly #selectors = new SelectorIndex()
  readonly #peers = new Map<string, PeerAuthenticationManifest>()
  readonly #peerSelectors = new SelectorIndex()
  /** Those of a whole namespace, or with '' of the mesh. */
  readonly #wide = new Map<string, Map<string, PeerAuthenticationManifest>>()

  constructor(settings: TranslateSettings, listener: PolicyListener) {
    this.#settings = settings
    this.#listener = listener
    this.#output('', strictPolicy(settings))
  }

  get outputs(): ReadonlyMap<string, Authorization> {
    return this.#outputs
  }

  #output(key: string, policy: Authorization | undefined): void {
    const name = policy ? policyKey(policy) : key
    if (isDeepStrictEqual(this.#outputs.get(name), policy)) return
    if (policy) this.#outputs.set(name, policy)
    else this.#outputs.delete(name)
    this.#listener.authorization(name, policy)
  }

  putPolicy(object: AuthorizationPolicyManifest): void {
    const { authorization, problems, notes } = translateAuthorizationPolicy(object, this.#settings)
    const labels = authorization?.scope === 'workloadSelector' ? selectorOf(object.spec) : undefined
    this.#setPolicy(object, authorization, labels)
    this.#listener.remarks(objectKey(object), { problems, notes })
  }

  removePolicy(object: AuthorizationPolicyManifest): void {
    this.#setPolicy(object, undefined, undefined)
    this.#listener.remarks(objectKey(object), noRemarks)
  }

  #setPolicy({ metadata }: AuthorizationPolicyManifest, policy: Authorization | undefined, labels: Labels | undefined): void {
    const key = policyKey(metadata)
    this.#output(key, policy)
    const before = this.#selectors.get(key)?.labels
    if (isDeepStrictEqual(before, labels)) return
    if (labels) this.#selectors.set(key, metadata.namespace, labels)
    else this.#selectors.delete(key)
    const namespace = this.#settings.rootNamespaces.includes(metadata.namespace) ? undefined : metadata.namespace
    if (before) this.#listener.workloads(namespace, before)
    if (labels) this.#listener.workloads(namespace, labels)
  }

  putPeer(object: PeerAuthenticationManifest): void {
    this.#setPeer(this.#peers.get(objectKey(object)), object)
  }

  removePeer(object: PeerAuthenticationManifest): void {
    this.#setPeer(this.#peers.get(objectKey(object)), undefined)
    this.#listener.remarks(objectKey(object), noRemarks)
  }

  #setPeer(before: PeerAuthenticationManifest | undefined, after: PeerAuthenticationManifest | undefined): void {
    const object = after ?? before
    if (!object) return
    const key = objectKey(object)
    const { namespace } = object.metadata
    const [from, to] = [before, after].map((each) => each && peerScope(each, this.#settings))
    const was = [this.#meshMode(), this.#inherited(namespace)]
    this.#peerSelectors.delete(key)
    for (const id of ['', namespace]) {
      const wide = this.#wide.get(id)
      if (wide?.delete(key) && wide.size === 0) this.#wide.delete(id)
    }
    if (after) this.#peers.set(key, after)
    else this.#peers.delete(key)
    if (after && (to?.t === 'mesh' || to?.t === 'namespace')) {
      getOrMake(this.#wide, to.t === 'mesh' ? '' : namespace, () => new Map<string, PeerAuthenticationManifest>()).set(key, after)
    }
    if (to?.t === 'selector') this.#peerSelectors.set(key, namespace, to.labels)
    this.#output(convertedKey(object), after && to?.t === 'selector' ? convertedPolicy(after, this.#inherited(namespace)) : undefined)
    for (const scope of [from, to]) if (scope?.t === 'selector') this.#listener.workloads(namespace, scope.labels)
    if (this.#meshMode() !== was[0]) this.#modeChanged(undefined)
    else if (this.#inherited(namespace) !== was[1]) this.#modeChanged(namespace)
    if (after) this.#remarkPeer(after)
    for (const id of ['', namespace]) for (const each of this.#wide.get(id)?.values() ?? []) this.#remarkPeer(each)
  }

  /** The mode of a namespace, or of the mesh, is another now: converted policies and lists of names follow. */
  #modeChanged(namespace: string | undefined): void {
    for (const [key, object] of this.#peers) {
      if (namespace !== undefined && object.metadata.namespace !== namespace) continue
      if (this.#peerSelectors.get(key)) this.#output(convertedKey(object), convertedPolicy(object, this.#inherited(object.metadata.namespace)))
    }
    this.#listener.workloads(namespace, undefined)
  }

  #remarkPeer(object: PeerAuthenticationManifest): void {
    const { problems, notes } = peerRemarks(object, this.#settings)
    const scope = peerScope(object, this.#settings)
    const id = scope.t === 'mesh' ? '' : object.metadata.namespace
    const counts = scope.t === 'mesh' || scope.t === 'namespace' ? this.#counts(id) : undefined
    const shadow = counts && counts !== object ? [`${objectKey(counts)} is for the same ${scope.t} and older, or first by name; that one counts`] : []
    this.#listener.remarks(objectKey(object), { problems: [...problems, ...shadow], notes })
  }

  #counts(id: string): PeerAuthenticationManifest | undefined {
    return oldest(this.#wide.get(id)?.values() ?? [])
  }

  /** What applies to a workload of the namespace that no selector names. */
  #inherited(namespace: string): EffectiveMode {
    return effectiveMode(this.#counts(namespace)?.spec.mtls?.mode, this.#meshMode())
  }

  #meshMode(): EffectiveMode {
    return effectiveMode(this.#counts('')?.spec.mtls?.mode, 'permissive')
  }

  /** Keys of what an object was translated to. */
  outputsOf(object: AuthorizationPolicyManifest | PeerAuthenticationManifest): string[] {
    const key = object.kind === 'AuthorizationPolicy' ? policyKey(object.metadata) : convertedKey(object)
    if (this.#outputs.has(key)) return [key]
    const isPlainlyStrict = object.kind === 'PeerAuthentication' && object.spec.mtls?.mode === 'STRICT' && peerScope(object, this.#settings).t !== 'refused'
    return isPlainlyStrict ? [policyKey(strictPolicy(this.#settings))] : []
  }

  /** Keys of the policies that a workload names, in order. */
  namesFor(namespace: string, labels: Labels): readonly string[] {
    const names = this.#selectors.select(namespace, labels)
    for (const root of this.#settings.rootNamespaces) if (root !== namespace) names.push(...this.#selectors.select(root, labels))
    const own = this.#peerSelectors.select(namespace, labels).map((key) => this.#peers.get(key)).filter((peer) => peer !== undefined)
    const peer = peerPolicyKey(oldest(own), this.#inherited(namespace), this.#settings)
    if (peer !== undefined) names.push(peer)
    return names.sort()
  }
}

function convertedKey({ metadata }: PeerAuthenticationManifest): string {
  return `${metadata.namespace}/${convertedPrefix}${metadata.name}`
}
