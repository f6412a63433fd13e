// Which endpoints a service prefers, as Kubernetes and Istio say it: the Service's own field first, then an annotation on it,
// then one on its namespace. Istio reads the same values in the annotation, in any case of letters.
import type { ServiceSpec } from '../../model/manifest-service.ts'
import type { Scope, Service } from '../../model/workload.ts'

export type TrafficDistribution = NonNullable<ServiceSpec['trafficDistribution']>

export const trafficDistributionAnnotation = 'networking.istio.io/traffic-distribution'

/**
 * The scopes that Istio sends. PreferClose is the old name of PreferSameZone (KEP-3015); the network before all, so that
 * another network is the last resort; and same node means same zone next, as there.
 */
const preferences: Readonly<Record<TrafficDistribution, readonly Scope[]>> = {
  PreferClose: ['network', 'region', 'zone'],
  PreferSameZone: ['network', 'region', 'zone'],
  PreferSameNode: ['network', 'region', 'zone', 'subzone', 'node'],
}
const distributions = Object.keys(preferences) as readonly TrafficDistribution[]

type Annotations = Readonly<Record<string, string>>

/** Undefined also for a value that is none; `trafficDistributionProblem` says so of the object. */
export function annotatedDistribution(annotations: Annotations): TrafficDistribution | undefined {
  const text = annotations[trafficDistributionAnnotation]?.toLowerCase()
  return distributions.find((known) => known.toLowerCase() === text)
}

export function trafficDistributionProblem(annotations: Annotations): string | undefined {
  const text = annotations[trafficDistributionAnnotation]
  if (text === undefined || annotatedDistribution(annotations) !== undefined) return undefined
  return `the annotation ${trafficDistributionAnnotation} is ${JSON.stringify(text.slice(0, 100))}, which is none of ${distributions.join(', ')}: it is passed over`
}

export function distributionBalancing(distribution: TrafficDistribution | undefined, allowUnhealthy: boolean): Service['loadBalancing'] {
  if (distribution) return { routingPreference: preferences[distribution], mode: 'failover', allowUnhealthy }
  return allowUnhealthy ? { routingPreference: [], mode: 'unspecified', allowUnhealthy } : undefined
}
