// AuthorizationPolicy to the L7 policy that a gateway enforces: the parts that a connection can answer as ztunnels read them, and
// beside them what only requests can. What cannot be read makes the whole policy unsupported, so that it refuses where it would
// deny and permits nothing where it would allow.
import {
  emptyL7Match, type AuthorizationL7, type L7Action, type L7Clause, type L7Match, type PathPattern, type ValueCondition,
} from '../../../model/authorization-l7.ts'
import type { AuthorizationPolicyManifest } from '../../../model/manifest.ts'
import {
  isL4Condition, type PolicyCondition, type PolicyOperation, type PolicyRule, type PolicySource,
} from '../../../model/manifest-policy.ts'
import {
  cidrsOf, conditionMatch, emptyMatch, isDryRunPolicy, operationMatch, parseCidr, sourceMatch, stringMatch, stringsOf,
} from '../authorization-policy.ts'
import type { TranslateSettings } from '../settings.ts'

const actions: Readonly<Record<AuthorizationPolicyManifest['spec']['action'], L7Action>> = {
  ALLOW: 'allow', DENY: 'deny', AUDIT: 'audit', CUSTOM: 'custom',
}

/** Key of the provider that a CUSTOM policy names, or why there is none. */
export type NamedProvider = { readonly key: string } | { readonly missing: string }

/** `provider` is of a policy with the action CUSTOM. */
export function translateL7(
  { metadata, spec }: AuthorizationPolicyManifest, provider: NamedProvider | undefined, settings: TranslateSettings,
): AuthorizationL7 {
  const { name, namespace } = metadata
  const problems: string[] = []
  const rules = spec.rules.map((rule) => ruleOf(rule, namespace, settings, problems))
  if (provider && 'missing' in provider) problems.push(provider.missing)
  return {
    name, namespace, action: actions[spec.action], rules, isDryRun: isDryRunPolicy(metadata),
    ...(provider && 'key' in provider ? { provider: provider.key } : {}),
    ...(problems[0] === undefined ? {} : { unsupported: problems[0] }),
  }
}

function ruleOf(rule: PolicyRule, namespace: string, settings: TranslateSettings, problems: string[]): readonly L7Clause[] {
  return [
    (rule.to ?? []).map(({ operation }) => ofOperation(operation)),
    (rule.from ?? []).map(({ source }) => ofSource(source, namespace, settings)),
    ...(rule.when ?? []).map((condition) => [ofCondition(condition, namespace, settings, problems)]),
  ].filter((clause) => clause.length > 0)
}

function matchOf(parts: Partial<L7Match>): L7Match {
  return { ...emptyL7Match, ...parts }
}

function ofOperation(operation: PolicyOperation): L7Match {
  return matchOf({
    l4: operationMatch(operation) ?? emptyMatch,
    paths: pathsOf(operation.paths), notPaths: pathsOf(operation.notPaths),
    methods: stringsOf(operation.methods), notMethods: stringsOf(operation.notMethods),
    hosts: stringsOf(operation.hosts), notHosts: stringsOf(operation.notHosts),
  })
}

/** Braces are Istio's path templates; which of them make sense is decided where they are compiled. */
function pathsOf(texts: readonly string[] | undefined): PathPattern[] {
  return (texts ?? []).map((text) => (/[{}]/.test(text) ? { kind: 'template', value: text } : stringMatch(text)))
}

function ofSource(source: PolicySource, namespace: string, settings: TranslateSettings): L7Match {
  return matchOf({
    l4: sourceMatch(source, namespace, settings) ?? emptyMatch,
    requestPrincipals: stringsOf(source.requestPrincipals), notRequestPrincipals: stringsOf(source.notRequestPrincipals),
    remoteIps: cidrsOf(source.remoteIpBlocks), notRemoteIps: cidrsOf(source.notRemoteIpBlocks),
  })
}

function ofCondition(condition: PolicyCondition, namespace: string, settings: TranslateSettings, problems: string[]): L7Match {
  const { key, values = [], notValues = [] } = condition
  if (isL4Condition(key)) return matchOf({ l4: conditionMatch(condition, namespace, settings) ?? emptyMatch })
  const texts: ValueCondition = { values: stringsOf(values), notValues: stringsOf(notValues) }
  switch (key) {
    case 'request.auth.principal': return matchOf({ requestPrincipals: texts.values, notRequestPrincipals: texts.notValues })
    case 'request.auth.audiences': return matchOf({ audiences: texts.values, notAudiences: texts.notValues })
    case 'request.auth.presenter': return matchOf({ presenters: texts.values, notPresenters: texts.notValues })
    case 'connection.sni': return matchOf({ serverNames: texts.values, notServerNames: texts.notValues })
    case 'remote.ip': {
      const bad = [...values, ...notValues].find((text) => parseCidr(text) === undefined)
      if (bad !== undefined) problems.push(`${JSON.stringify(bad.slice(0, 100))} is no address for remote.ip`)
      return matchOf({ remoteIps: cidrsOf(values), notRemoteIps: cidrsOf(notValues) })
    }
  }
  const header = /^request\.headers\[([A-Za-z0-9!#$%&'*+\-.^_`|~]+)\]$/.exec(key)?.[1]
  if (header !== undefined) return matchOf({ headers: [{ name: header.toLowerCase(), ...texts }] })
  const claims = /^request\.auth\.claims((?:\[[^[\]]+\])+)$/.exec(key)?.[1]
  if (claims !== undefined) return matchOf({ claims: [{ path: claims.slice(1, -1).split(']['), ...texts }] })
  problems.push(`the condition ${JSON.stringify(key.slice(0, 100))} is not known to gateways`)
  return emptyL7Match
}
