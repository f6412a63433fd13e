// What the owner of a Gateway, or of a class, wants to be different about the objects that are made: patches in a ConfigMap, as for
// Istio's Gateways. Only what is listed here can be changed. The control plane makes these objects with its own rights, for people
// who may have no right to make pods: so never which program runs, as whom, with which rights, and what of the node or of
// the namespace it sees. Pure, and never throws, whatever is written.
import { parseDocument } from 'yaml'
import { gatewayClassLabel, gatewayNameLabel, managedByLabel } from '../../model/gateway-labels.ts'
import { dnsLabel, failureModeLabel, istioDataplaneLabel, meshLabel, nativeTunnelLabel } from '../../model/enrolment.ts'
import { gatewayContainer, maxReplicas, settingProblem, type GatewayObjects, type ReplicaRange } from '../../model/gateway-objects.ts'
import { isRecord, strategicMerge } from './strategic-merge.ts'

type Json = Readonly<Record<string, unknown>>

/** Keys of the ConfigMap, each a patch in YAML or JSON; `none` for one of the last two: do not make it. */
export const overrideKeys = ['deployment', 'service', 'serviceAccount', 'horizontalPodAutoscaler', 'podDisruptionBudget'] as const
export type OverrideKey = (typeof overrideKeys)[number]
export type Overrides = Readonly<Partial<Record<OverrideKey, Json | 'none'>>>

const maxPatchBytes = 64 << 10
const maxDepth = 20
const maxShown = 80

/** `any`: nothing in it makes a pod something else than it is. Functions give what is wrong with a value. */
type Rule = 'any' | { readonly [field: string]: Rule } | ((value: unknown) => string | undefined)

const ours = new Set([gatewayNameLabel, gatewayClassLabel, managedByLabel, meshLabel, failureModeLabel, dnsLabel, nativeTunnelLabel, istioDataplaneLabel, 'app', 'istio.io/use-waypoint', 'sidestep.dev/use-waypoint'])

function labels(value: unknown): string | undefined {
  if (!isRecord(value)) return 'must be a mapping'
  const taken = Object.keys(value).find((key) => ours.has(key))
  if (taken !== undefined) return `the label ${taken} says whose pods these are and cannot be changed`
  return notTexts(value)
}

/** Null takes one away. What begins with $ would be an instruction to the merge. */
function notTexts(value: Json): string | undefined {
  const bad = Object.entries(value).find(([key, each]) => key.startsWith('$') || (each !== null && typeof each !== 'string'))
  return bad && `${JSON.stringify(bad[0].slice(0, maxShown))} must be a name and its value text`
}

function annotations(value: unknown): string | undefined {
  if (!isRecord(value)) return 'must be a mapping'
  // They once changed the profile that keeps a container in; Kubernetes forgets such things slowly.
  const taken = Object.keys(value).find((key) => /(^|\.)(seccomp|apparmor)\.security\.(alpha|beta)\.kubernetes\.io\//.test(key))
  return taken === undefined ? notTexts(value) : `the annotation ${taken.slice(0, maxShown)} says what a container may do and cannot be changed`
}

/** Between the two, whole numbers. */
const integer = (least: number, most: number) => (value: unknown): string | undefined =>
  (Number.isInteger(value) && Number(value) >= least && Number(value) <= most ? undefined : `must be a number from ${least} to ${most}`)
const oneOf = (...words: readonly string[]) => (value: unknown): string | undefined =>
  (words.some((word) => word === value) ? undefined : `must be ${words.join(' or ')}`)

function settings(value: unknown): string | undefined {
  if (!Array.isArray(value)) return 'must be a list'
  for (const each of value) {
    if (!isRecord(each) || typeof each['name'] !== 'string' || typeof each['value'] !== 'string' || Object.keys(each).length !== 2) return 'each must be a name and a value'
    const problem = settingProblem(each['name'], each['value'], [], new Map())
    if (problem !== undefined) return `${each['name'].slice(0, maxShown)} ${problem}`
  }
  return undefined
}

const metadata = { labels, annotations } as const
const probe = {
  initialDelaySeconds: integer(0, 3_600), periodSeconds: integer(1, 3_600), timeoutSeconds: integer(1, 3_600), successThreshold: integer(1, 100), failureThreshold: integer(1, 1_000),
} as const
const container = {
  name: oneOf(gatewayContainer), resources: { requests: 'any', limits: 'any' }, env: settings, imagePullPolicy: oneOf('Always', 'IfNotPresent', 'Never'),
  readinessProbe: probe, livenessProbe: probe, startupProbe: probe,
} as const satisfies Rule

function containers(value: unknown): string | undefined {
  if (!Array.isArray(value)) return 'must be a list'
  for (const each of value) {
    if (!isRecord(each) || each['name'] !== gatewayContainer) return `must be of the container ${gatewayContainer}; there are no others`
    const problem = findProblem(each, container, '')
    if (problem !== undefined) return problem
  }
  return undefined
}

const rules: Readonly<Record<OverrideKey, Rule>> = {
  serviceAccount: { metadata, imagePullSecrets: 'any' },
  deployment: {
    metadata,
    spec: {
      replicas: integer(0, maxReplicas), minReadySeconds: integer(0, 3_600), progressDeadlineSeconds: integer(1, 86_400), revisionHistoryLimit: integer(0, 100), strategy: 'any',
      template: {
        metadata,
        spec: {
          affinity: 'any', tolerations: 'any', nodeSelector: 'any', topologySpreadConstraints: 'any', priorityClassName: 'any', schedulerName: 'any', runtimeClassName: 'any',
          imagePullSecrets: 'any', terminationGracePeriodSeconds: integer(0, 86_400), dnsPolicy: oneOf('ClusterFirst', 'Default', 'None'), dnsConfig: 'any', hostAliases: 'any', containers,
        },
      },
    },
  },
  service: {
    metadata,
    spec: {
      type: oneOf('ClusterIP', 'NodePort', 'LoadBalancer'), loadBalancerClass: 'any', loadBalancerIP: 'any', loadBalancerSourceRanges: 'any', allocateLoadBalancerNodePorts: 'any',
      externalTrafficPolicy: 'any', internalTrafficPolicy: 'any', trafficDistribution: 'any', healthCheckNodePort: 'any', sessionAffinity: 'any', sessionAffinityConfig: 'any',
      ipFamilyPolicy: 'any', ipFamilies: 'any', ports: servicePorts,
    },
  },
  horizontalPodAutoscaler: { metadata, spec: { minReplicas: integer(1, maxReplicas), maxReplicas: integer(1, maxReplicas), metrics: 'any', behavior: 'any' } },
  podDisruptionBudget: { metadata, spec: { minAvailable: 'any', maxUnavailable: 'any', unhealthyPodEvictionPolicy: 'any' } },
}

function servicePorts(value: unknown): string | undefined {
  if (!Array.isArray(value)) return 'must be a list'
  for (const each of value) {
    if (!isRecord(each) || !Number.isInteger(each['port'])) return 'each must name a port of a listener by its number'
    const problem = findProblem(each, { port: 'any', nodePort: 'any', appProtocol: 'any' }, '')
    if (problem !== undefined) return problem
  }
  return undefined
}

/** The first thing that cannot be changed, with its path. */
function findProblem(value: unknown, rule: Rule, path: string): string | undefined {
  const at = (text: string): string => (path === '' ? text : `${path}: ${text}`)
  if (rule === 'any') return undefined
  if (typeof rule === 'function') {
    const problem = rule(value)
    return problem === undefined ? undefined : at(problem)
  }
  if (!isRecord(value)) return at('must be a mapping')
  for (const [field, each] of Object.entries(value)) {
    const inner = path === '' ? field : `${path}.${field}`
    if (!Object.hasOwn(rule, field)) return `${inner.slice(0, maxShown)} cannot be changed`
    const known = rule[field]
    const problem = known === undefined ? undefined : findProblem(each, known, inner)
    if (problem !== undefined) return problem
  }
  return undefined
}

/** What a ConfigMap's data says, or what is wrong with it. */
export function parseOverrides(data: unknown): { readonly overrides: Overrides; readonly problems: readonly string[] } {
  const overrides: Partial<Record<OverrideKey, Json | 'none'>> = {}
  const problems: string[] = []
  for (const [key, text] of Object.entries(isRecord(data) ? data : {})) {
    const known = overrideKeys.find((each) => each === key)
    if (!known) problems.push(`${JSON.stringify(key.slice(0, maxShown))} is none of ${overrideKeys.join(', ')}`)
    else if (typeof text === 'string') {
      const read = readPatch(known, text)
      if (typeof read === 'string' && read !== 'none') problems.push(`${known}: ${read}`)
      else overrides[known] = read
    }
  }
  return problems.length > 0 ? { overrides: {}, problems } : { overrides, problems }
}

/** The patch; `none`; or a sentence. */
function readPatch(key: OverrideKey, text: string): Json | string {
  if (Buffer.byteLength(text) > maxPatchBytes) return `is larger than ${maxPatchBytes} bytes`
  if (text.trim() === 'none') return key === 'horizontalPodAutoscaler' || key === 'podDisruptionBudget' ? 'none' : 'cannot be left out'
  try {
    const document = parseDocument(text, { uniqueKeys: true, merge: false })
    const [error] = document.errors
    // Without what it quotes: it may be anything.
    if (error) return `is no YAML: ${error.code.toLowerCase().replaceAll('_', ' ')}`
    const value: unknown = document.toJS({ maxAliasCount: 0 }) ?? {}
    if (!isRecord(value)) return 'must be a mapping'
    if (isDeeper(value, maxDepth)) return `is nested more than ${maxDepth} levels deep`
    // Who copies an object may leave in what it is.
    const { apiVersion: _, kind: __, ...patch } = value
    return findProblem(patch, rules[key], '') ?? patch
  } catch (error) {
    // Aliases, and nesting that is too deep for the parser.
    return `is no YAML: ${error instanceof RangeError ? 'nested too deep' : 'aliases are not read'}`
  }
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((each) => isDeeper(each, levels - 1))
}

/** The objects with patches over them, the later over the earlier, and how many pods there are to be. */
export function applyOverrides(
  { objects, replicas }: { readonly objects: GatewayObjects; readonly replicas: ReplicaRange }, patches: readonly Overrides[],
): { readonly objects: GatewayObjects; readonly replicas: ReplicaRange } {
  const made: Partial<Record<OverrideKey, Json>> = { ...objects }
  for (const patch of patches) {
    for (const key of overrideKeys) {
      const own = patch[key]
      const base = made[key]
      if (own === 'none') delete made[key]
      else if (own !== undefined && base) made[key] = strategicMerge(base, own)
    }
  }
  const { serviceAccount = objects.serviceAccount, deployment = objects.deployment, service = objects.service, horizontalPodAutoscaler, podDisruptionBudget } = made
  const { fixed, rest } = takeReplicas(deployment)
  const range = fixed === undefined ? rangeOf(horizontalPodAutoscaler, replicas) : { min: fixed, max: fixed }
  const isScaled = horizontalPodAutoscaler !== undefined && fixed === undefined
  return {
    replicas: isScaled || fixed !== undefined ? range : { min: replicas.min, max: replicas.min },
    objects: {
      serviceAccount, deployment: rest, service: withoutForeignPorts(service, objects.service),
      ...(isScaled ? { horizontalPodAutoscaler } : {}),
      ...(podDisruptionBudget ? { podDisruptionBudget: oneBudget(podDisruptionBudget) } : {}),
    },
  }
}

/** A fixed number is written on its own, so that it can be given to an autoscaler and taken back without a moment at one. */
function takeReplicas(deployment: Json): { readonly fixed: number | undefined; readonly rest: Json } {
  const spec = isRecord(deployment['spec']) ? deployment['spec'] : {}
  const { replicas, ...rest } = spec
  return { fixed: typeof replicas === 'number' ? replicas : undefined, rest: { ...deployment, spec: rest } }
}

function rangeOf(autoscaler: Json | undefined, otherwise: ReplicaRange): ReplicaRange {
  const spec = isRecord(autoscaler?.['spec']) ? autoscaler['spec'] : {}
  const [min, max] = [spec['minReplicas'], spec['maxReplicas']]
  const least = typeof min === 'number' ? min : otherwise.min
  return { min: least, max: Math.max(least, typeof max === 'number' ? max : otherwise.max) }
}

/** Ports are those of listeners: a patch changes one, and adds none. */
function withoutForeignPorts(service: Json, made: Json): Json {
  const [spec, before] = [service['spec'], made['spec']]
  if (!isRecord(spec) || !Array.isArray(spec['ports']) || !isRecord(before) || !Array.isArray(before['ports'])) return service
  const known = new Set(before['ports'].map((each) => (isRecord(each) ? each['port'] : undefined)))
  return { ...service, spec: { ...spec, ports: spec['ports'].filter((each) => isRecord(each) && known.has(each['port'])) } }
}

/** Kubernetes takes only one of the two; who asks for the one does not want ours. */
function oneBudget(budget: Json): Json {
  const { spec } = budget
  if (!isRecord(spec) || spec['minAvailable'] === undefined) return budget
  const { maxUnavailable: _, ...rest } = spec
  return { ...budget, spec: rest }
}
