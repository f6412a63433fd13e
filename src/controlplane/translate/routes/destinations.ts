// How the endpoints of each service are used: DestinationRules of the service's namespace, else of a root namespace, and over
// them the BackendPolicies of its namespace. A rule in a client's namespace would have to be followed by the client's proxy;
// here the destination's proxy decides, so it is not in force, and says so.
import { objectKey, type BackendPolicyManifest, type DestinationRuleManifest } from '../../../model/manifest.ts'
import type { TrafficPolicySpec } from '../../../model/manifest-traffic-destination.ts'
import type { BackendPolicySpec } from '../../../model/manifest-traffic-policy.ts'
import { defaultTrafficPolicy, type DestinationPolicy, type TrafficPolicy } from '../../../model/route.ts'
import type { Findings } from './findings.ts'
import { bySpecificity } from './hostnames.ts'
import { trafficPolicy, withBackendPolicy, type PolicyContext } from './traffic-policy.ts'
import type { ServiceTarget, World } from './world.ts'

type Subset = { readonly labels: Readonly<Record<string, string>>; readonly policy: TrafficPolicy }

/** By `namespace/hostname`, sorted; only services that somebody says something of. */
export function destinationPolicies(world: World, findings: Findings): ReadonlyMap<string, DestinationPolicy> {
  const rules = rulesByTarget(world, findings)
  const own = policiesByTarget(world, findings)
  const found = new Map<string, DestinationPolicy>()
  for (const target of [...world.targets.values()].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    const base = fromRules(target, rules.get(target.key) ?? [], findings)
    const policy = withOwnPolicies(target, base, own)
    if (policy) found.set(target.key, policy)
  }
  return found
}

/** The rules that count for each service, of one namespace and one host, the oldest first. */
function rulesByTarget(world: World, findings: Findings): ReadonlyMap<string, readonly DestinationRuleManifest[]> {
  const best = new Map<string, { readonly rank: readonly [number, string | undefined]; readonly rules: DestinationRuleManifest[] }>()
  const { rootNamespaces } = world.settings
  for (const rule of world.destinationRules) {
    const { namespace } = rule.metadata
    const object = objectKey(rule)
    const { host: written, workloadSelector, exportTo } = rule.spec
    if (workloadSelector && Object.keys(workloadSelector.matchLabels).length > 0) {
      findings.problem(object, 'workloadSelector chooses among clients, and the destination\'s proxy serves all of them: the rule is not in force')
      continue
    }
    const host = world.fullHost(written, namespace)
    const hosts = world.matchingHost(host)
    if (hosts.length === 0) findings.note(object, `no service has the host ${written.slice(0, 100)}`)
    let isUsed = false
    for (const { key, name } of hosts) {
      const isExported = exportTo.length === 0 || exportTo.includes('*') || exportTo.includes(name.namespace) || (exportTo.includes('.') && namespace === name.namespace)
      const root = rootNamespaces.indexOf(namespace)
      if (!isExported || (name.namespace !== namespace && root < 0)) continue
      isUsed = true
      const rank = [name.namespace === namespace ? -1 : root, host === '*' ? undefined : host] as const
      const known = best.get(key)
      const order = known ? rank[0] - known.rank[0] || bySpecificity(rank[1], known.rank[1]) : -1
      if (order < 0) best.set(key, { rank, rules: [rule] })
      else if (order === 0) known?.rules.push(rule)
    }
    if (hosts.length > 0 && !isUsed) findings.problem(object, 'not in force: it counts in the service\'s own namespace or in a root one, where it is exported to the service')
  }
  return new Map([...best].map(([key, { rules }]) => [key, rules]))
}

function fromRules(
  target: ServiceTarget, rules: readonly DestinationRuleManifest[], findings: Findings,
): DestinationPolicy | undefined {
  if (rules.length === 0) return undefined
  const contextOf = (rule: DestinationRuleManifest, where: string): PolicyContext => ({
    namespace: target.name.namespace,
    problem: (text) => findings.problem(objectKey(rule), `${where}${text}`),
    note: (text) => findings.note(objectKey(rule), `${where}${text}`),
  })
  // Of several rules for one host the oldest says the policy, and the others may add subsets, as in Istio.
  const main = rules.find(({ spec }) => spec.trafficPolicy)
  const ports = new Map<number, TrafficPolicy>()
  const settings = main?.spec.trafficPolicy
  const subsets = new Map<string, Subset>()
  if (main && settings) {
    remarkUnsupported(settings, contextOf(main, ''))
    for (const { port: { number }, ...own } of settings.portLevelSettings) {
      // What a port does not say is the default, not what the rule says for all ports.
      ports.set(number, trafficPolicy(own, contextOf(main, `port ${number}: `)))
    }
  }
  for (const rule of rules) {
    if (rule !== main && rule.spec.trafficPolicy) findings.problem(objectKey(rule), `the trafficPolicy for ${target.name.hostname} is already said by ${main && objectKey(main)}; that one counts`)
    for (const { name, labels, trafficPolicy: own } of rule.spec.subsets) {
      const context = contextOf(rule, `subset ${name}: `)
      if (subsets.has(name)) {
        context.problem('is already defined by an older rule; that one counts')
        continue
      }
      if (own) remarkUnsupported(own, context)
      if (own && own.portLevelSettings.length > 0) context.problem('portLevelSettings of a subset are not supported')
      subsets.set(name, { labels, policy: trafficPolicy({ ...settings, ...definedOf(own) }, context) })
    }
  }
  return {
    key: target.key, policy: main && settings ? trafficPolicy(settings, contextOf(main, '')) : defaultTrafficPolicy, ports,
    subsets,
  }
}

/** What a subset says, setting by setting; the rest is the rule's. */
function definedOf(own: TrafficPolicySpec | undefined): Partial<TrafficPolicySpec> {
  return Object.fromEntries(Object.entries(own ?? {}).filter(([name, value]) => value !== undefined && name !== 'portLevelSettings'))
}

function remarkUnsupported({ tunnel, proxyProtocol }: TrafficPolicySpec, context: PolicyContext): void {
  if (tunnel) context.problem('tunnel is not supported')
  if (proxyProtocol) context.problem('proxyProtocol is not supported')
}

/** BackendPolicies by what they are attached to: `Service shop/web`, or `Service shop/web/http` for a port. The oldest counts. */
function policiesByTarget(world: World, findings: Findings): ReadonlyMap<string, BackendPolicySpec> {
  const found = new Map<string, BackendPolicyManifest>()
  for (const policy of world.backendPolicies) {
    const { namespace } = policy.metadata
    const problem = (text: string): void => findings.problem(objectKey(policy), text)
    for (const { group, kind, name, sectionName } of policy.spec.targetRefs) {
      const owner = `${kind} ${namespace}/${name}`
      const key = sectionName === undefined ? owner : `${owner}/${sectionName}`
      const [target] = isBackend(group, kind) ? world.targetsOf(kind, namespace, name) : []
      const first = found.get(key)
      if (!isBackend(group, kind)) problem(`cannot be attached to a ${kind} of the group ${JSON.stringify(group)}`)
      else if (!target) problem(`there is no ${owner} to attach to`)
      else if (sectionName !== undefined && !target.ports.some((port) => port.name === sectionName)) problem(`${owner} has no port named ${sectionName}`)
      else if (first && first !== policy) problem(`${key} already has ${objectKey(first)}; that one counts (Conflicted)`)
      else found.set(key, policy)
    }
  }
  return new Map([...found].map(([key, { spec }]) => [key, spec]))
}

function isBackend(group: string, kind: string): boolean {
  return group === '' ? kind === 'Service' : (group === 'networking.istio.io' || group === 'sidestep.dev') && kind === 'ServiceEntry'
}

function withOwnPolicies(
  target: ServiceTarget, base: DestinationPolicy | undefined, own: ReadonlyMap<string, BackendPolicySpec>,
): DestinationPolicy | undefined {
  const owner = objectKey(target.owner)
  const whole = own.get(owner)
  const ofPorts = target.ports.flatMap(({ name, number }) => {
    const spec = name === undefined ? undefined : own.get(`${owner}/${name}`)
    return spec ? [{ number, spec }] : []
  })
  if (!whole && ofPorts.length === 0) return base
  const over = (policy: TrafficPolicy): TrafficPolicy => (whole ? withBackendPolicy(policy, whole) : policy)
  const { policy, ports, subsets } = base ?? {
    policy: defaultTrafficPolicy, ports: new Map<number, TrafficPolicy>(), subsets: new Map<string, Subset>(),
  }
  const changed = new Map([...ports].map(([port, one]) => [port, over(one)]))
  for (const { number, spec } of ofPorts) changed.set(number, withBackendPolicy(changed.get(number) ?? over(policy), spec))
  return {
    key: target.key, policy: over(policy), ports: changed,
    subsets: new Map([...subsets].map(([name, subset]) => [name, { ...subset, policy: over(subset.policy) }])),
  }
}
