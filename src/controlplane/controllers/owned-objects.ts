// What was made for Gateways, as the API has it: watched, so that what somebody changes or deletes is put back, and so that it is
// known how the pods and addresses are. Keeps who owns an object and what of it matters; looks only.
import { createHash } from 'node:crypto'
import type { Logger } from '../../core/log.ts'
import type { KubeObject, KubeOwner, ResourceType } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { ListWatch } from '../../kube/list-watch.ts'
import { gatewayNameLabel, managedBy, managedByLabel } from '../../model/gateway-labels.ts'
import { gatewayGroup } from '../../model/manifest-gateway.ts'
import type { GatewayAddressStatus } from './gateway-status.ts'
import { isRecord } from './strategic-merge.ts'

export type OwnedKind = 'ServiceAccount' | 'Deployment' | 'Service' | 'HorizontalPodAutoscaler' | 'PodDisruptionBudget'

export const ownedTypes: Readonly<Record<OwnedKind, ResourceType>> = {
  ServiceAccount: { group: '', version: 'v1', plural: 'serviceaccounts', kind: 'ServiceAccount', namespaced: true },
  Deployment: { group: 'apps', version: 'v1', plural: 'deployments', kind: 'Deployment', namespaced: true },
  Service: { group: '', version: 'v1', plural: 'services', kind: 'Service', namespaced: true },
  HorizontalPodAutoscaler: { group: 'autoscaling', version: 'v2', plural: 'horizontalpodautoscalers', kind: 'HorizontalPodAutoscaler', namespaced: true },
  PodDisruptionBudget: { group: 'policy', version: 'v1', plural: 'poddisruptionbudgets', kind: 'PodDisruptionBudget', namespaced: true },
}

export interface OwnedObject {
  readonly uid: string
  readonly resourceVersion: string
  /** Of the Gateway that it was made for; undefined where nobody controls it. */
  readonly owner: KubeOwner | undefined
  readonly isMarkedOurs: boolean
  /** Changes with what is wanted of it, not with its status. */
  readonly fingerprint: string
  readonly deployment?: DeploymentState
  readonly service?: ServiceState
}

export interface DeploymentState {
  readonly replicas: number
  readonly ready: number
  /** Why pods cannot be made, where it says so. */
  readonly message: string
}

export interface ServiceState {
  readonly addresses: readonly GatewayAddressStatus[]
  readonly hasAddress: boolean
}

export class OwnedObjects {
  /** By `Kind namespace/name`. */
  readonly #objects = new Map<string, OwnedObject>()
  readonly #watches: readonly ListWatch<OwnedObject>[]

  /** `onChange` hears of the Gateway's `namespace/name`, which all that is made for it bears. */
  constructor(api: WatchApi, logger: Logger, onChange: (gateway: string) => void) {
    this.#watches = Object.values(ownedTypes).map((type) => new ListWatch<OwnedObject>({
      api, log: logger, type, labelSelector: `${managedByLabel}=${managedBy}`,
      trim: (object) => (object.metadata.labels?.[gatewayNameLabel] === object.metadata.name ? readOwned(object) : undefined),
      listener: {
        put: (name, object) => {
          this.#objects.set(`${type.kind} ${name}`, object)
          onChange(name)
        },
        remove: (name) => {
          this.#objects.delete(`${type.kind} ${name}`)
          onChange(name)
        },
      },
    }))
  }

  /** Resolves when all there are were told. Rejects with CLOSED. */
  async start(): Promise<void> {
    for (const watch of this.#watches) watch.start()
    await Promise.all(this.#watches.map((watch) => watch.synced()))
  }

  get(kind: OwnedKind, gateway: string): OwnedObject | undefined {
    return this.#objects.get(`${kind} ${gateway}`)
  }

  /** What the API answered, before a watch tells it; a watch may have told of later changes already, and says them once only. */
  put(kind: OwnedKind, gateway: string, object: KubeObject): OwnedObject {
    const read = readOwned(object)
    const known = this.#objects.get(`${kind} ${gateway}`)
    if (!known || known.uid !== read.uid || !isLater(known.resourceVersion, read.resourceVersion)) this.#objects.set(`${kind} ${gateway}`, read)
    return read
  }

  forget(kind: OwnedKind, gateway: string): void {
    this.#objects.delete(`${kind} ${gateway}`)
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close()
    await Promise.all(this.#watches.map((watch) => watch.ended()))
  }
}

/** Versions of one object are numbers that grow; of others nothing is known. */
function isLater(version: string, than: string): boolean {
  return /^\d+$/.test(version) && /^\d+$/.test(than) && BigInt(version) > BigInt(than)
}

export function readOwned(object: KubeObject): OwnedObject {
  const { kind, metadata: { uid = '', resourceVersion = '', labels = {}, annotations = {}, ownerReferences = [] } } = object
  return {
    uid,
    resourceVersion,
    owner: ownerReferences.find((each) => each.controller === true),
    isMarkedOurs: labels[managedByLabel] === managedBy,
    fingerprint: createHash('sha256').update(JSON.stringify([labels, withoutNoise(annotations), ownerReferences, object.spec, object['automountServiceAccountToken'], object['imagePullSecrets']])).digest('base64'),
    ...(kind === 'Deployment' ? { deployment: deploymentState(object) } : {}),
    ...(kind === 'Service' ? { service: serviceState(object) } : {}),
  }
}

/** Written by the Deployment's own controller at each roll. */
function withoutNoise({ 'deployment.kubernetes.io/revision': _revision, ...rest }: Readonly<Record<string, string>>): object {
  return rest
}

export function isOwnedBy({ owner }: Pick<OwnedObject, 'owner'>, gatewayUid: string): boolean {
  return owner?.kind === 'Gateway' && owner.uid === gatewayUid && owner.apiVersion.startsWith(`${gatewayGroup}/`)
}

function deploymentState({ spec, status, metadata }: KubeObject): DeploymentState {
  const [wanted, has] = [isRecord(spec) ? spec : {}, isRecord(status) ? status : {}]
  const conditions = Array.isArray(has['conditions']) ? has['conditions'].filter(isRecord) : []
  const bad = conditions.find((each) => each['type'] === 'ReplicaFailure' && each['status'] === 'True') ?? conditions.find((each) => each['type'] === 'Progressing' && each['status'] === 'False')
  // What it counted before it was changed last may be of pods that are about to go; they serve all the same.
  return {
    replicas: numberOf(wanted['replicas'], 1), ready: numberOf(has['readyReplicas'], 0),
    message: typeof bad?.['message'] === 'string' ? bad['message'] : (metadata.generation ?? 0) > numberOf(has['observedGeneration'], 0) ? 'the Deployment was not looked at yet' : '',
  }
}

function serviceState({ spec, status }: KubeObject): ServiceState {
  const [wanted, has] = [isRecord(spec) ? spec : {}, isRecord(status) ? status : {}]
  const balancer = isRecord(has['loadBalancer']) && Array.isArray(has['loadBalancer']['ingress']) ? has['loadBalancer']['ingress'].filter(isRecord) : []
  const given = balancer.flatMap((each): GatewayAddressStatus[] => {
    const [ip, hostname] = [each['ip'], each['hostname']]
    return typeof ip === 'string' && ip !== '' ? [{ type: 'IPAddress', value: ip }] : typeof hostname === 'string' && hostname !== '' ? [{ type: 'Hostname', value: hostname }] : []
  })
  if (wanted['type'] === 'LoadBalancer') return { addresses: given, hasAddress: given.length > 0 }
  const listed = Array.isArray(wanted['clusterIPs']) ? wanted['clusterIPs'] : [wanted['clusterIP']]
  const own = listed.flatMap((ip): GatewayAddressStatus[] => (typeof ip === 'string' && ip !== '' && ip !== 'None' ? [{ type: 'IPAddress', value: ip }] : []))
  return { addresses: own, hasAddress: own.length > 0 }
}

function numberOf(value: unknown, otherwise: number): number {
  return typeof value === 'number' ? value : otherwise
}
