// What there is to say of waypoints that are wished for and cannot be had, on the object that says the wish: a namespace once for
// all that is in it, else the thing itself.
import { objectKey, type ManifestObject } from '../../../model/manifest.ts'
import { resolveBinding, serviceThing, wishOf, type BoundThing } from '../routes/bindings.ts'
import type { Findings } from '../routes/findings.ts'
import type { World } from '../routes/world.ts'
import type { TranslateSettings } from '../settings.ts'
import { labelsOfEntry } from '../workload.ts'

export function remarkWishes(
  objects: readonly ManifestObject[], world: World, settings: TranslateSettings, findings: Findings,
): void {
  for (const object of objects) {
    for (const thing of thingsOf(object)) {
      if (object.kind !== 'Namespace' && wishOf(thing.labels, thing.namespace, settings) === undefined) continue
      const binding = resolveBinding(thing, world, settings)
      if (binding.t !== 'refused') continue
      const what = 'cannot use the waypoint that it is to use, so connections to it are refused'
      findings.problem(objectKey(object), `${what}: ${binding.message}`)
    }
  }
}

/** What an object's labels are said for. */
function thingsOf(object: ManifestObject): readonly BoundThing[] {
  switch (object.kind) {
    case 'Namespace':
      return (['service', 'workload'] as const).map((kind) => ({ kind, namespace: object.metadata.name, labels: {} }))
    case 'Service': return [serviceThing(object)]
    case 'ServiceEntry': return [serviceThing(object)]
    case 'WorkloadEntry': return [workload(object.metadata.namespace, labelsOfEntry(object.metadata.labels, object.spec.labels))]
    case 'Pod': return [workload(object.metadata.namespace, object.metadata.labels)]
    case 'Deployment': return [workload(object.metadata.namespace, object.spec.template.metadata.labels)]
    default: return []
  }
}

function workload(namespace: string, labels: Readonly<Record<string, string>>): BoundThing {
  return { kind: 'workload', namespace, labels }
}
