// Whether a request may pass: the policies of its destination, and the authorizers that CUSTOM policies name. Asks those first,
// because theirs may be a login page where the rest would say 403. Refuses whatever it cannot decide.
import { formatIdentity } from '../../core/identity.ts'
import type { SocketAddr } from '../../core/address.ts'
import type { AuthorizationProvider } from '../../model/waypoint-config.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Caller, Chains, Target } from '../context.ts'
import type { Response } from '../http/message.ts'
import { localAnswer } from './local-answer.ts'
import type { Passage } from './passage.ts'

export type CheckResult =
  | {
    readonly t: 'allowed'
    /** On the request that goes on. */
    readonly apply: (headers: HeaderMap) => void
    readonly answerHeaders: readonly (readonly [name: string, value: string])[]
  }
  | { readonly t: 'refused'; readonly response: Response & { t: 'response' }; readonly detail: string }
  /** It could not be asked, or said nothing that can be understood. */
  | { readonly t: 'away'; readonly detail: string }

export interface ExternalAuthorizer {
  /** Never rejects. */
  check(provider: AuthorizationProvider, passage: Passage): Promise<CheckResult>
}

/** Undefined to go on. */
export async function authorize(passage: Passage, chains: Chains, external: ExternalAuthorizer): Promise<Response | undefined> {
  const { chain, context, head, record } = passage
  if (chain.authorizer.policies.length === 0) return undefined
  const { caller, serverName } = context
  const verdict = chain.authorizer.evaluate({
    head, remoteIp: passage.remoteIp,
    connection: { identity: caller.identity, sourceIp: caller.address.ip, destination: destinationOf(context.target) },
    ...(serverName !== undefined && { serverName }),
    ...(passage.token && { token: passage.token }),
  })
  for (const { policy, rule } of verdict.audit) record.policyHit({ policy, rule, as: 'audit' })
  for (const { policy, rule } of verdict.dryRun) record.policyHit({ policy, rule, as: 'dryRun' })
  for (const { policy, provider: name } of verdict.ask) {
    const answer = await ask(name, policy, passage, chains, external)
    if (answer) return answer
  }
  if (verdict.allowed) return undefined
  record.because('denied', verdict.policy === undefined ? verdict.because : `${verdict.because} ${verdict.policy}`)
  return denied(passage)
}

async function ask(
  name: string, policy: string, passage: Passage, chains: Chains, external: ExternalAuthorizer,
): Promise<Response | undefined> {
  const { record, request, head } = passage
  const provider = chains.provider(name)
  if (!provider) {
    record.because('providerAway', `${policy}: there is no provider ${name}`)
    return denied(passage)
  }
  const result = await external.check(provider, passage)
  switch (result.t) {
    case 'allowed':
      result.apply(head.headers)
      passage.hasCredentials = true
      passage.answerHeaders.push(...result.answerHeaders)
      return undefined
    case 'refused':
      record.because('deniedByProvider', `${policy}: ${name}: ${result.detail}`)
      return result.response
    case 'away':
      record.because('providerAway', `${policy}: ${name}: ${result.detail}`)
      if (provider.isFailOpen) return undefined
      return localAnswer(request, { status: provider.statusOnError, message: 'the request could not be authorized' })
  }
}

/** As Envoy says it. */
function denied({ request }: Passage): Response {
  return localAnswer(request, { status: 403, message: 'RBAC: access denied', isPlain: true })
}

// A policy of a service may name its address; what has none is nobody's, and no condition about addresses holds for it.
const noAddress = '0.0.0.0'

/** As policies see it. */
export function destinationOf(target: Target): SocketAddr {
  switch (target.t) {
    case 'service': return {
      ip: target.service.addresses.find(({ prefixLength }) => prefixLength === undefined)?.ip ?? noAddress, port: target.port,
    }
    case 'workload': return { ip: target.workload.ips[0] ?? noAddress, port: target.port }
    case 'listener': return { ip: noAddress, port: target.listener.port }
  }
}

export interface Source {
  readonly sourceIdentity?: string
  readonly sourceNamespace?: string
}

/** A connection's requests have one caller. */
const sources = new WeakMap<Caller, Source>()

/** What routes and policies are told of the caller. */
export function sourceOf(caller: Caller): Source {
  const known = sources.get(caller)
  if (known) return known
  const { identity } = caller
  const source: Source = identity ? { sourceIdentity: formatIdentity(identity), sourceNamespace: identity.namespace } : {}
  sources.set(caller, source)
  return source
}
