// What policies for requests say of connections that are carried as they are, where nobody sees a request. As in Istio: what
// only a request could answer never holds for an ALLOW, and is as if it were not asked in a DENY, CUSTOM or AUDIT, so that a
// connection without requests is no way around a rule. Names, addresses, ports and the server name of TLS are judged as ever.
import type { AuthorizationL7, L7Clause, L7Match, L7Rule } from '../../model/authorization-l7.ts'
import { isEmptyMatch } from '../rbac-compile.ts'
import { unsupportedL7 } from './authorization-compile.ts'
import type { AuthorizationRequest } from './authorization-facts.ts'
import { L7Authorizer, type L7Verdict } from './authorization.ts'
import type { PeerConnection } from '../rbac-facts.ts'
import { HeaderMap, type RequestHead } from './request-head.ts'

type Kind = Exclude<keyof L7Match, 'l4'>
/** Of those kinds alone a connection knows something. */
const ofConnections: ReadonlySet<Kind> = new Set(['remoteIps', 'notRemoteIps', 'serverNames', 'notServerNames'])

function requestKinds(match: L7Match): Kind[] {
  return (Object.keys(match) as (keyof L7Match)[]).filter((kind): kind is Kind =>
    kind !== 'l4' && !ofConnections.has(kind) && match[kind].length > 0)
}

/** Whether a request could change its answer. */
export function looksAtRequests({ action, rules }: AuthorizationL7): boolean {
  return action === 'custom' || rules.flat(2).some((match) => requestKinds(match).length > 0)
}

/** The same policy for connections. */
export function connectionPolicy(policy: AuthorizationL7): AuthorizationL7 {
  // Also where what cannot be evaluated is left out below: it refuses what it would protect.
  const unsupported = unsupportedL7(policy)
  if (unsupported !== undefined) return { ...policy, unsupported }
  if (!policy.rules.flat(2).some((match) => requestKinds(match).length > 0)) return policy
  const { action, rules } = policy
  return { ...policy, rules: action === 'allow' ? rules.flatMap(permitting) : rules.map((rule) => rule.map(refusing)) }
}

/** Without the alternatives that cannot hold; none where a clause has no other. */
function permitting(rule: L7Rule): L7Rule[] {
  const clauses = rule.map((clause) => clause.filter((match) => requestKinds(match).length === 0))
  return clauses.some((clause, i) => clause.length === 0 && (rule[i]?.length ?? 0) > 0) ? [] : [clauses]
}

/** Without the conditions that nobody can look at; an alternative of nothing else holds always, and the clause with it. */
function refusing(clause: L7Clause): L7Clause {
  const matches = clause.map((match): L7Match => {
    const kinds = requestKinds(match)
    return kinds.length === 0 ? match : { ...match, ...Object.fromEntries(kinds.map((kind) => [kind, []])) }
  })
  const isAlways = matches.some((match, i) => match !== clause[i] && isWithoutConditions(match))
  return isAlways ? [] : matches
}

function isWithoutConditions({ l4, ...kinds }: L7Match): boolean {
  return isEmptyMatch(l4) && Object.values(kinds).every((kind: readonly unknown[]) => kind.length === 0)
}

const noRequest: RequestHead = Object.freeze({
  method: '', scheme: 'http', authority: '', path: { path: '', matched: '' }, query: '', headers: new HeaderMap(),
})
const known = new WeakMap<L7Authorizer, L7Authorizer>()

export interface ConnectionFacts {
  readonly connection: PeerConnection
  readonly remoteIp: string
  /** Of the ClientHello of TLS that is passed through. */
  readonly serverName?: string
}

/**
 * The verdict on a connection that is carried as it is. Nobody can be asked about it: a CUSTOM policy that concerns it refuses.
 */
export function judgeConnection(authorizer: L7Authorizer, facts: ConnectionFacts): L7Verdict {
  let ofConnections = known.get(authorizer)
  if (!ofConnections) known.set(authorizer, (ofConnections = new L7Authorizer(authorizer.policies.map(connectionPolicy))))
  const request: AuthorizationRequest = { head: noRequest, ...facts }
  const verdict = ofConnections.evaluate(request)
  const [first] = verdict.ask
  if (!verdict.allowed || !first) return verdict
  return { ...verdict, allowed: false, because: 'unsupportedPolicy', policy: first.policy, rule: first.rule }
}
