// Which policies and whose tokens count where: AuthorizationPolicies and RequestAuthentications by what they name in targetRefs.
// For a service behind a waypoint those of the service, of its waypoint and of the waypoint's class count together; for a listener
// those of its Gateway and of the class. A policy that counts nowhere says so on itself.
import { policyKey } from '../../../model/authorization.ts'
import type { AuthorizationL7 } from '../../../model/authorization-l7.ts'
import { gatewayGroup } from '../../../model/manifest-gateway.ts'
import {
  objectKey, type AuthorizationPolicyManifest, type GatewayManifest, type RequestAuthenticationManifest,
} from '../../../model/manifest.ts'
import type { SecurityScope } from '../../../model/waypoint-config.ts'
import { dryRunNote, targetsOf, type TargetReference } from '../authorization-policy.ts'
import type { WaypointBinding } from '../routes/bindings.ts'
import type { Findings } from '../routes/findings.ts'
import { roleOf, roleOfClass } from '../routes/gateways.ts'
import type { World } from '../routes/world.ts'
import { getOrMake } from '../selectors.ts'
import { translateL7 } from './authorization-l7.ts'
import type { Providers } from './providers.ts'

type Policy = AuthorizationPolicyManifest | RequestAuthenticationManifest

const closed = 'everything that it is for is refused'
const unsupportedMeans: Readonly<Record<AuthorizationL7['action'], string>> = {
  allow: 'it allows nothing', deny: closed, custom: closed, audit: 'it marks nothing',
}

/** What was said for one thing, in the order of age. */
interface Said {
  readonly policies: AuthorizationL7[]
  readonly jwtRules: SecurityScope['jwtRules'][number][]
}

export class Security {
  /** By `Service namespace/name`, `ServiceEntry namespace/name`, `Gateway namespace/name` or `GatewayClass name`. */
  readonly #said = new Map<string, Said>()
  readonly #world: World
  readonly #bindings: ReadonlyMap<string, WaypointBinding>
  readonly #findings: Findings

  /** `policies` in the order of age. */
  constructor(
    policies: readonly Policy[], world: World, bindings: ReadonlyMap<string, WaypointBinding>, providers: Providers, findings: Findings,
  ) {
    this.#world = world
    this.#bindings = bindings
    this.#findings = findings
    for (const policy of policies) {
      const l7 = policy.kind === 'AuthorizationPolicy' ? this.#translate(policy, providers) : undefined
      const targets = new Set(targetsOf(policy.spec).flatMap((ref) => this.#targetOf(policy, ref) ?? []))
      for (const target of targets) {
        const said = getOrMake(this.#said, target, (): Said => ({ policies: [], jwtRules: [] }))
        if (l7) said.policies.push(l7)
        if (policy.kind === 'RequestAuthentication') said.jwtRules.push(...policy.spec.jwtRules)
      }
      if (policy.kind === 'RequestAuthentication' && targetsOf(policy.spec).length === 0) {
        findings.problem(objectKey(policy), 'names no targetRefs, and ztunnels do not look at tokens: nothing of it is enforced')
      }
    }
  }

  #translate(policy: AuthorizationPolicyManifest, providers: Providers): AuthorizationL7 {
    const { spec, metadata: { namespace } } = policy
    const provider = spec.action === 'CUSTOM' ? providers.named(spec.provider?.name, namespace) : undefined
    const l7 = translateL7(policy, provider, this.#world.settings)
    if (l7.unsupported !== undefined) {
      this.#findings.problem(objectKey(policy), `${l7.unsupported}: ${unsupportedMeans[l7.action]}`)
    }
    if (l7.isDryRun) this.#findings.note(objectKey(policy), dryRunNote)
    return l7
  }

  /** Key of the thing that it means; undefined where it is for nothing here. */
  #targetOf(policy: Policy, { group, kind, name, namespace }: TargetReference): string | undefined {
    const own = policy.metadata.namespace
    const problem = (text: string): undefined => void this.#findings.problem(objectKey(policy), text)
    if (namespace !== undefined && namespace !== own) {
      return problem(`targetRefs: ${kind} ${namespace}/${name} is of another namespace, which only its own policies can be for`)
    }
    const isOf = (...groups: readonly string[]): boolean => group === undefined || groups.includes(group)
    if (kind === 'GatewayClass' && isOf(gatewayGroup)) return this.#classOf(policy, name)
    if (kind === 'Gateway' && isOf(gatewayGroup)) return this.#gatewayOf(policy, name)
    if ((kind === 'Service' && isOf('')) || (kind === 'ServiceEntry' && isOf('networking.istio.io', 'sidestep.dev'))) {
      const targets = this.#world.targetsOf(kind, own, name)
      const target = `${kind} ${own}/${name}`
      if (targets.length === 0) return problem(`there is no ${target} (TargetNotFound)`)
      if (targets.every(({ key }) => this.#bindings.get(key)?.t !== 'bound')) {
        problem(`${target} is behind no waypoint, so nothing of it is enforced there (AncestorNotBound)`)
      }
      return target
    }
    const ofGroup = group === undefined || group === '' ? '' : ` of the group ${group}`
    return problem(`targetRefs: a ${kind}${ofGroup} is nothing that a policy can be for`)
  }

  #gatewayOf(policy: Policy, name: string): string | undefined {
    const { namespace } = policy.metadata
    const gateway = this.#world.gateway(namespace, name)
    if (gateway && roleOf(gateway, this.#world) !== undefined) return objectKey(gateway)
    if (gateway) this.#findings.note(objectKey(policy), `the Gateway ${namespace}/${name} is served by somebody else`)
    else this.#findings.problem(objectKey(policy), `there is no Gateway ${namespace}/${name} (TargetNotFound)`)
    return undefined
  }

  #classOf(policy: Policy, name: string): string | undefined {
    const { rootNamespaces } = this.#world.settings
    const isRoot = rootNamespaces.includes(policy.metadata.namespace)
    if (isRoot && roleOfClass(name, this.#world) !== undefined) return `GatewayClass ${name}`
    if (isRoot) this.#findings.note(objectKey(policy), `the GatewayClass ${name} is served by somebody else`)
    else this.#findings.problem(objectKey(policy), `only a policy in ${rootNamespaces.join(' or ')} can be for a GatewayClass`)
    return undefined
  }

  /** For what has no policies of its own at this Gateway. */
  ofGateway(gateway: GatewayManifest): SecurityScope {
    return scopeOf([this.#said.get(`GatewayClass ${gateway.spec.gatewayClassName}`), this.#said.get(objectKey(gateway))])
  }

  /** For a service (object key of its owner) behind this waypoint; undefined if there are none of its own. */
  ofService(gateway: GatewayManifest, owner: string): SecurityScope | undefined {
    const own = this.#said.get(owner)
    if (!own) return undefined
    return scopeOf([this.#said.get(`GatewayClass ${gateway.spec.gatewayClassName}`), this.#said.get(objectKey(gateway)), own])
  }
}

function scopeOf(parts: readonly (Said | undefined)[]): SecurityScope {
  const policies = parts.flatMap((part) => part?.policies ?? [])
  // A policy that names both the service and its waypoint counts once.
  return {
    policies: [...new Set(policies)].sort((a, b) => (policyKey(a) < policyKey(b) ? -1 : 1)),
    jwtRules: [...new Set(parts.flatMap((part) => part?.jwtRules ?? []))],
  }
}
