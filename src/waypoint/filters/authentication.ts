// The phase of tokens: whoever sends one that is not believed is refused; of one that is, the claims go to headers as its rule
// asks, and the token itself goes no further unless the rule says so. Headers that carry claims are taken from every request
// first.
import type { JwtRule } from '../../model/manifest-traffic-auth.ts'
import { isChangeable } from '../../policy/l7/header-change.ts'
import type { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Response } from '../http/message.ts'
import { fieldValueOf } from './header-values.ts'
import type { Authentication, TokenVerifier } from './jwt.ts'
import { localAnswer } from './local-answer.ts'
import type { Passage } from './passage.ts'

/** Undefined to go on. */
export async function authenticate(passage: Passage, tokens: TokenVerifier): Promise<Response | undefined> {
  const { head, chain, record } = passage
  const result = await tokens.verify(head, chain.jwtRules)
  removeClaimHeaders(head.headers, chain.jwtRules)
  switch (result.t) {
    case 'none': return undefined
    case 'refused':
      record.because(result.because, result.detail)
      return refusal(passage, result)
    case 'verified':
      passage.token = result.token
      passage.hasCredentials = true
      if (!result.rule.forwardOriginalToken) passage.tokenToRemove = result.found
      writeClaims(head.headers, result)
      return undefined
    default: return result satisfies never
  }
}

function removeClaimHeaders(headers: HeaderMap, rules: readonly JwtRule[]): void {
  for (const { outputPayloadToHeader, outputClaimToHeaders, fromHeaders } of rules) {
    // Where the token itself is read from, only a believed one is taken away.
    const sources = fromHeaders.map(({ name }) => name.toLowerCase())
    for (const name of [outputPayloadToHeader, ...outputClaimToHeaders.map(({ header }) => header)]) {
      if (name !== undefined && !sources.includes(name.toLowerCase())) headers.delete(name)
    }
  }
}

function writeClaims(headers: HeaderMap, { rule, payload, found }: Authentication & { t: 'verified' }): void {
  const put = (name: string, text: string | undefined): void => {
    if (!isChangeable(name)) return
    const value = text === undefined ? undefined : fieldValueOf(text)
    if (value === undefined) headers.delete(name)
    else headers.set(name, value)
  }
  if (rule.outputPayloadToHeader !== undefined) put(rule.outputPayloadToHeader, found.token.split('.')[1])
  for (const { header, claim } of rule.outputClaimToHeaders) put(header, claimText(claimOf(payload, claim)))
}

/** By its whole name, else from the outside in along its dots. */
export function claimOf(claims: Readonly<Record<string, unknown>>, name: string): unknown {
  if (Object.hasOwn(claims, name)) return claims[name]
  let value: unknown = claims
  for (const part of name.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined
    value = Reflect.get(value, part)
  }
  return value
}

/** Plain values as text, lists and objects as base64url of their JSON, as Envoy writes them. */
function claimText(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  return typeof value === 'object' && value !== null ? Buffer.from(JSON.stringify(value)).toString('base64url') : undefined
}

function refusal({ request, head }: Passage, { because }: Authentication & { t: 'refused' }): Response {
  if (because === 'keysAway') return localAnswer(
    request, { status: 503, message: 'the keys to verify the token are not available', headers: [['retry-after', '5']] },
  )
  const realm = `${head.scheme}://${head.authority}${head.path.path}`.slice(0, 1_024)
  return localAnswer(request, {
    status: 401, message: 'the token is not valid',
    headers: [['www-authenticate', `Bearer realm="${realm}", error="invalid_token"`]],
  })
}
