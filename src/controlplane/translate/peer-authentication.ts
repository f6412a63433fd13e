// PeerAuthentication to DENY policies, as istiod compiles it: STRICT is "deny whoever has no identity". A workload under plain
// STRICT names one fixed policy; one with exceptions by port names a policy made for its PeerAuthentication. DISABLE
// is enforced as PERMISSIVE: a captured pod can always be reached through its tunnel, and plaintext is let in.
import type { Authorization, Match } from '../../model/authorization.ts'
import type { PeerAuthenticationManifest } from '../../model/manifest.ts'
import type { MtlsMode } from '../../model/manifest-policy.ts'
import { emptyMatch, selectorOf } from './authorization-policy.ts'
import type { Remarks, TranslateSettings } from './settings.ts'

export type EffectiveMode = 'strict' | 'permissive'

export const strictPolicyName = 'istio_converted_static_strict'
export const convertedPrefix = 'converted_peer_authentication_'

const withoutIdentity: Match = { ...emptyMatch, notPrincipals: [{ kind: 'presence' }] }

/** The one policy of every workload that is plainly strict. */
export function strictPolicy({ rootNamespaces: [namespace = ''] }: TranslateSettings): Authorization {
  return { name: strictPolicyName, namespace, scope: 'workloadSelector', action: 'deny', rules: [[[withoutIdentity]]], isDryRun: false }
}

/** What `mode` comes to where `inherited` applies around it. */
export function effectiveMode(mode: MtlsMode | undefined, inherited: EffectiveMode): EffectiveMode {
  switch (mode) {
    case 'STRICT': return 'strict'
    case 'PERMISSIVE':
    case 'DISABLE': return 'permissive'
    case 'UNSET':
    case undefined: return inherited
  }
}

/** Ports whose mode differs from the workload's own, ascending. */
function exceptions({ spec }: PeerAuthenticationManifest, base: EffectiveMode): number[] {
  return Object.entries(spec.portLevelMtls)
    .filter(([, { mode }]) => effectiveMode(mode, base) !== base)
    .map(([port]) => Number(port))
    .sort((a, b) => a - b)
}

/** The policy that a PeerAuthentication with a selector needs for itself; undefined where none or the fixed one does. */
export function convertedPolicy(policy: PeerAuthenticationManifest, inherited: EffectiveMode): Authorization | undefined {
  const base = effectiveMode(policy.spec.mtls?.mode, inherited)
  const ports = exceptions(policy, base)
  if (ports.length === 0) return undefined
  const byPort: Match = { ...emptyMatch, ...(base === 'strict' ? { notDestinationPorts: ports } : { destinationPorts: ports }) }
  return {
    name: convertedPrefix + policy.metadata.name, namespace: policy.metadata.namespace, scope: 'workloadSelector', action: 'deny',
    rules: [[[withoutIdentity], [byPort]]], isDryRun: false,
  }
}

/** `namespace/name` of the policy that a workload names for its mode; undefined if plaintext is let in everywhere. */
export function peerPolicyKey(policy: PeerAuthenticationManifest | undefined, inherited: EffectiveMode, settings: TranslateSettings): string | undefined {
  const converted = policy && convertedPolicy(policy, inherited)
  if (converted) return `${converted.namespace}/${converted.name}`
  if (effectiveMode(policy?.spec.mtls?.mode, inherited) === 'permissive') return undefined
  return `${settings.rootNamespaces[0] ?? ''}/${strictPolicyName}`
}

/** For whom a PeerAuthentication is. */
export type PeerScope =
  | { readonly t: 'mesh' }
  | { readonly t: 'namespace' }
  | { readonly t: 'selector'; readonly labels: Readonly<Record<string, string>> }
  | { readonly t: 'refused'; readonly because: string }

export function peerScope({ metadata, spec }: PeerAuthenticationManifest, settings: TranslateSettings): PeerScope {
  const labels = selectorOf(spec)
  const isRoot = settings.rootNamespaces.includes(metadata.namespace)
  if (labels && isRoot) return { t: 'refused', because: 'a selector in the root namespace selects nothing, as in Istio: put it into the namespace of the workloads' }
  if (labels) return { t: 'selector', labels }
  return isRoot ? { t: 'mesh' } : { t: 'namespace' }
}

export function peerRemarks(policy: PeerAuthenticationManifest, settings: TranslateSettings): Remarks {
  const scope = peerScope(policy, settings)
  const modes = [policy.spec.mtls?.mode, ...Object.values(policy.spec.portLevelMtls).map(({ mode }) => mode)]
  return {
    problems: scope.t === 'refused' ? [scope.because] : [],
    notes: modes.includes('DISABLE') ? ['DISABLE lets plaintext in, as PERMISSIVE does: captured pods are always reached through the tunnel'] : [],
  }
}
