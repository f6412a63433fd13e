// In which namespaces there are Gateways of ours, kept up to date by the changes of objects: their pods need what the mesh trusts.
import type { GatewayManifest } from '../../model/manifest.ts'
import type { ObjectChanges } from '../../model/object-set.ts'
import { gatewayRole } from '../../model/gateway-labels.ts'

export class GatewayNamespaces {
  readonly #gateways = new Map<string, GatewayManifest>()
  readonly #controllers = new Map<string, string>()

  /** True if it may be others now. */
  apply(changes: ObjectChanges): boolean {
    let isDifferent = false
    for (const [key, object] of changes) {
      if (key.startsWith('Gateway ')) {
        if (object?.kind === 'Gateway') this.#gateways.set(key, object)
        else this.#gateways.delete(key)
      } else if (key.startsWith('GatewayClass ')) {
        const name = key.slice('GatewayClass '.length)
        if (object?.kind === 'GatewayClass') this.#controllers.set(name, object.spec.controllerName)
        else this.#controllers.delete(name)
      } else continue
      isDifferent = true
    }
    return isDifferent
  }

  get(): ReadonlySet<string> {
    const ours = [...this.#gateways.values()].filter(({ spec: { gatewayClassName } }) => gatewayRole(gatewayClassName, this.#controllers.get(gatewayClassName)) !== undefined)
    return new Set(ours.map(({ metadata }) => metadata.namespace))
  }
}
