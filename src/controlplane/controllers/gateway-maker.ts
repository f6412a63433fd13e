// Makes what one Gateway becomes, and keeps it so: server-side apply of our fields, under the Gateway's ownership, so that it all goes
// with it. What somebody else has under the same name is never taken over. Called again and again; each time only what differs is
// written.
import { createHash, randomBytes } from 'node:crypto'
import type { MeshError } from '../../core/errors.ts'
import { isConflict, isNotFound, kubeStatus } from '../../kube/answers.ts'
import { resourcePath, type CallOptions, type KubeApi, type KubeObject, type KubeOwner, type ResourceType } from '../../kube/api.ts'
import { gatewayNameLabel, managedBy, managedByLabel } from '../../model/gateway-labels.ts'
import type { GatewayObjects, ReplicaRange } from '../../model/gateway-objects.ts'
import { fieldManager } from '../../model/kubernetes-names.ts'
import { sessionKeysFile, sessionSecretName } from './gateway-run.ts'
import { isOwnedBy, ownedTypes, readOwned, type OwnedKind, type OwnedObject, type OwnedObjects } from './owned-objects.ts'

export interface OwningGateway {
  readonly namespace: string
  readonly name: string
  readonly uid: string
  /** Of the Gateway, with the version that is watched. */
  readonly apiVersion: string
}

export type MakeResult =
  | { readonly t: 'made' }
  /** Objects that are somebody else's, as `Kind name`. */
  | { readonly t: 'conflict'; readonly objects: readonly string[] }
  /** Another look soon: what is left of a Gateway of that name is still being removed. */
  | { readonly t: 'wait'; readonly because: string }

interface Applied {
  readonly desired: string
  /** What the API made of it. */
  readonly fingerprint: string
}

const secretType: ResourceType = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true }
/** Who owns the number of pods: neither an apply that leaves it out nor an autoscaler finds it unowned, which would mean one. */
const scaleManager = `${fieldManager}-scale`

export class GatewayMaker {
  readonly #api: KubeApi
  readonly #owned: OwnedObjects
  /** By `Kind namespace/name`. */
  readonly #applied = new Map<string, Applied>()
  /** Gateways by uid whose keys are there. */
  readonly #withKeys = new Set<string>()

  constructor(api: KubeApi, owned: OwnedObjects) {
    this.#api = api
    this.#owned = owned
  }

  /** Rejects with what the API server says. */
  async make(gateway: OwningGateway, objects: GatewayObjects, replicas: ReplicaRange, call: CallOptions): Promise<MakeResult> {
    const wanted: readonly (readonly [OwnedKind, Readonly<Record<string, unknown>> | undefined])[] = [
      ['ServiceAccount', objects.serviceAccount], ['Service', objects.service], ['Deployment', objects.deployment],
      ['HorizontalPodAutoscaler', objects.horizontalPodAutoscaler], ['PodDisruptionBudget', objects.podDisruptionBudget],
    ]
    const conflicts: string[] = []
    const instead = new Set<OwnedKind>()
    for (const [kind, object] of wanted) {
      if (!object) continue
      const verdict = await this.#claim(kind, gateway, call)
      // Who writes a scaler of its own for our Deployment means that one.
      if (verdict === 'foreign' && (kind === 'HorizontalPodAutoscaler' || kind === 'PodDisruptionBudget')) instead.add(kind)
      else if (verdict === 'foreign') conflicts.push(`${kind} ${gateway.name}`)
      else if (verdict === 'former') return { t: 'wait', because: `the ${kind} ${gateway.name} of a Gateway of that name that is gone is still being removed` }
    }
    // Half of it would be of no use, and might lead requests to somebody else's pods.
    if (conflicts.length > 0) return { t: 'conflict', objects: conflicts }
    const keys = await this.#ensureKeys(gateway, call)
    if (keys) return keys
    for (const [kind, object] of wanted) {
      if (object && !instead.has(kind)) await this.#apply(kind, gateway, object, call)
      else await this.#delete(kind, gateway, call)
      // A pod's identity, its address and its number are there before the pod is.
      if (kind === 'Deployment' && !instead.has('HorizontalPodAutoscaler')) await this.#scale(gateway, replicas, call)
    }
    return { t: 'made' }
  }

  /** Takes away all that is this Gateway's: it is not ours any more. Its keys stay, they harm nobody and go with it. */
  async remove(gateway: OwningGateway, call: CallOptions): Promise<void> {
    for (const kind of Object.keys(ownedTypes) as OwnedKind[]) await this.#delete(kind, gateway, call)
  }

  /** Whether something of it may still be there. */
  hasAny({ namespace, name, uid }: Pick<OwningGateway, 'namespace' | 'name' | 'uid'>): boolean {
    return (Object.keys(ownedTypes) as OwnedKind[]).some((kind) => {
      const object = this.#owned.get(kind, `${namespace}/${name}`)
      return object !== undefined && isOwnedBy(object, uid)
    })
  }

  async #claim(kind: OwnedKind, gateway: OwningGateway, call: CallOptions): Promise<'free' | 'ours' | 'foreign' | 'former'> {
    const id = idOf(gateway)
    const known = this.#owned.get(kind, id)
    if (known && isOwnedBy(known, gateway.uid)) return 'ours'
    try {
      const found = readOwned(await this.#api.get(resourcePath(ownedTypes[kind], gateway), call))
      return claimOf(found, gateway)
    } catch (error) {
      if (!isNotFound(error)) throw error
      this.#owned.forget(kind, id)
      return 'free'
    }
  }

  async #apply(kind: OwnedKind, gateway: OwningGateway, object: Readonly<Record<string, unknown>>, call: CallOptions): Promise<void> {
    const id = idOf(gateway)
    const full = { ...object, metadata: { ...(object['metadata'] as KubeObject['metadata']), ownerReferences: [ownerOf(gateway)] } } as unknown as KubeObject
    const desired = createHash('sha256').update(JSON.stringify(full)).digest('base64')
    const key = `${kind} ${id}`
    const applied = this.#applied.get(key)
    const now = this.#owned.get(kind, id)
    if (now && applied?.desired === desired && applied.fingerprint === now.fingerprint) return
    const answer = await this.#api.apply(ownedTypes[kind], full, { ...call, force: true })
    const { fingerprint } = this.#owned.put(kind, id, answer)
    this.#applied.set(key, { desired, fingerprint })
  }

  async #delete(kind: OwnedKind, gateway: OwningGateway, call: CallOptions): Promise<void> {
    const id = idOf(gateway)
    const known = this.#owned.get(kind, id)
    this.#applied.delete(`${kind} ${id}`)
    if (!known || !isOwnedBy(known, gateway.uid)) return
    await this.#api.delete(resourcePath(ownedTypes[kind], gateway), { ...call, propagation: 'Background' })
    this.#owned.forget(kind, id)
  }

  /** Into the range at once, where an autoscaler would take its time; between, the number is the autoscaler's. */
  async #scale(gateway: OwningGateway, { min, max }: ReplicaRange, call: CallOptions): Promise<void> {
    const id = idOf(gateway)
    const now = this.#owned.get('Deployment', id)?.deployment?.replicas
    const wanted = now === undefined ? min : Math.min(max, Math.max(min, now))
    if (now === wanted) return
    const answer = await this.#api.patch(resourcePath(ownedTypes.Deployment, gateway), { spec: { replicas: wanted } }, 'merge', { ...call, query: { fieldManager: scaleManager } })
    const { fingerprint } = this.#owned.put('Deployment', id, answer)
    const applied = this.#applied.get(`Deployment ${id}`)
    if (applied) this.#applied.set(`Deployment ${id}`, { ...applied, fingerprint })
  }

  /** Made once, and never overwritten: all sessions would end. One that somebody made before is as good. */
  async #ensureKeys(gateway: OwningGateway, call: CallOptions): Promise<Extract<MakeResult, { t: 'wait' }> | undefined> {
    if (this.#withKeys.has(gateway.uid)) return undefined
    const { namespace } = gateway
    const name = sessionSecretName(gateway.name)
    const object = {
      apiVersion: 'v1', kind: 'Secret', type: 'Opaque',
      metadata: { name, namespace, labels: { [gatewayNameLabel]: gateway.name, [managedByLabel]: managedBy }, ownerReferences: [ownerOf(gateway)] },
      stringData: { [sessionKeysFile]: `${randomBytes(32).toString('base64url')}\n` },
    }
    try {
      // Nothing of what is there needs to be read for this.
      await this.#api.create(resourcePath(secretType, { namespace }), object, call)
    } catch (error) {
      if (!isConflict(error)) throw error
      const found = readOwned(await this.#api.get(resourcePath(secretType, { namespace, name }), call))
      if (claimOf(found, gateway) === 'former') return { t: 'wait', because: `the Secret ${name} of a Gateway of that name that is gone is still being removed` }
    }
    this.#withKeys.add(gateway.uid)
    return undefined
  }

  /** Look at everything anew: what is not watched may have been deleted. */
  doubt(): void {
    this.#withKeys.clear()
  }
}

function idOf({ namespace, name }: OwningGateway): string {
  return `${namespace}/${name}`
}

function claimOf(found: OwnedObject, gateway: OwningGateway): 'ours' | 'foreign' | 'former' {
  if (isOwnedBy(found, gateway.uid)) return 'ours'
  if (found.owner?.kind === 'Gateway' && found.owner.name === gateway.name) return 'former'
  // Marked as ours and controlled by nobody: its Gateway was deleted without it, so that its pods would go on.
  return found.owner === undefined && found.isMarkedOurs ? 'ours' : 'foreign'
}

function ownerOf({ apiVersion, name, uid }: OwningGateway): KubeOwner {
  return { apiVersion, kind: 'Gateway', name, uid, controller: true }
}

/** The API server does not take what the object says: nothing that time would heal. */
export function isInvalid(error: unknown): error is MeshError {
  const status = kubeStatus(error)
  return status === 422 || status === 400
}
