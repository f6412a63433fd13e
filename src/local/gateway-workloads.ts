// Gateways of ours as objects that a local mesh runs. Keeps the last good ones of a Gateway that became bad, and leaves out what
// somebody wrote by hand under the same name. Pure but for that memory.
import { gatewayRole, type GatewayRole } from '../model/gateway-labels.ts'
import { gatewayObjects, type GatewayObjects, type GatewayRun } from '../model/gateway-objects.ts'
import {
  manifestKinds, objectKey, type DeploymentManifest, type GatewayClassManifest, type GatewayManifest, type Problem, type ServiceManifest,
} from '../model/manifest.ts'

export interface RunningGateway {
  readonly manifest: GatewayManifest
  readonly role: GatewayRole
  /** Who says what its pods are: we, somebody who wrote a Deployment of its name, or nobody, because it never was good. */
  readonly madeBy: 'us' | 'hand' | 'nobody'
}

export interface GeneratedObjects {
  /** By `namespace/name`. */
  readonly gateways: ReadonlyMap<string, RunningGateway>
  readonly deployments: ReadonlyMap<string, DeploymentManifest>
  readonly services: ReadonlyMap<string, ServiceManifest>
  /** Accounts and Services as the API has them, for the control plane; Deployments it does not need. */
  readonly forControlPlane: readonly object[]
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
}

interface Made {
  readonly objects: GatewayObjects
  readonly deployment: DeploymentManifest
  readonly service: ServiceManifest
}

interface Remembered {
  readonly from: GatewayManifest
  readonly restartedAt: string | undefined
  readonly role: GatewayRole
  /** The newest that could be made. */
  readonly good: Made | undefined
  readonly problems: readonly Problem[]
}

export class GatewayWorkloads {
  readonly #runOf: (gateway: GatewayManifest) => GatewayRun
  readonly #memory = new Map<string, Remembered>()
  readonly #restarts = new Map<string, string>()

  constructor(runOf: (gateway: GatewayManifest) => GatewayRun) {
    this.#runOf = runOf
  }

  /** Its pods are replaced, one after the other, though nothing of it changed. */
  restart(id: string, at: string): void {
    this.#restarts.set(id, at)
  }

  /** `written` tells where an object of that key was written by somebody, if it was. */
  generate(
    gateways: Iterable<GatewayManifest>, classes: ReadonlyMap<string, GatewayClassManifest>, written: (key: string) => Problem | undefined,
  ): GeneratedObjects {
    const running = new Map<string, RunningGateway>()
    const deployments = new Map<string, DeploymentManifest>()
    const services = new Map<string, ServiceManifest>()
    const forControlPlane: object[] = []
    const [problems, notes]: [Problem[], Problem[]] = [[], []]
    for (const gateway of gateways) {
      const role = gatewayRole(gateway.spec.gatewayClassName, classes.get(gateway.spec.gatewayClassName)?.spec.controllerName)
      if (role === undefined) continue
      const id = `${gateway.metadata.namespace}/${gateway.metadata.name}`
      const remembered = this.#make(id, gateway, role)
      problems.push(...remembered.problems)
      const { good } = remembered
      const isFree = (kind: string): boolean => {
        const other = written(`${kind} ${id}`)
        if (other) notes.push({ ...gateway.origin, reason: `${objectKey(gateway)}: the ${kind} ${id} of ${other.file}:${other.line} counts, and none is made for it` })
        return other === undefined
      }
      const madeBy = !isFree('Deployment') ? 'hand' : good ? 'us' : 'nobody'
      running.set(id, { manifest: gateway, role, madeBy })
      if (!good) continue
      if (madeBy === 'us') deployments.set(id, good.deployment)
      if (isFree('Service')) {
        services.set(id, good.service)
        forControlPlane.push(good.objects.service)
      }
      if (written(`ServiceAccount ${id}`) === undefined) forControlPlane.push(good.objects.serviceAccount)
    }
    for (const id of this.#memory.keys()) if (!running.has(id)) this.#memory.delete(id)
    for (const id of this.#restarts.keys()) if (!running.has(id)) this.#restarts.delete(id)
    return { gateways: running, deployments, services, forControlPlane, problems, notes }
  }

  #make(id: string, gateway: GatewayManifest, role: GatewayRole): Remembered {
    const before = this.#memory.get(id)
    const restartedAt = this.#restarts.get(id)
    if (before?.from === gateway && before.restartedAt === restartedAt && before.role === role) return before
    const expansion = gatewayObjects(gateway, role, { ...this.#runOf(gateway), ...(restartedAt === undefined ? {} : { restartedAt }) })
    const { origin } = gateway
    const remembered: Remembered = {
      from: gateway, restartedAt, role,
      good: expansion.ok
        ? {
          objects: expansion.objects,
          deployment: { kind: 'Deployment', origin, ...manifestKinds.Deployment.schema.parse(expansion.objects.deployment) },
          service: { kind: 'Service', origin, ...manifestKinds.Service.schema.parse(expansion.objects.service) },
        }
        : before?.role === role ? before.good : undefined,
      problems: expansion.ok ? [] : expansion.problems.map((reason) => ({ ...origin, object: objectKey(gateway), reason: `${objectKey(gateway)}: ${reason}` })),
    }
    this.#memory.set(id, remembered)
    return remembered
  }
}

export const nothingGenerated: GeneratedObjects = {
  gateways: new Map(), deployments: new Map(), services: new Map(), forControlPlane: [], problems: [], notes: [],
}
