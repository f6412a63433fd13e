// Who calls the control plane: whoever holds a token that we signed for our audience speaks for the node named in it, and for no
// other. Refusals tell the reason, never the token.
import type { TokenHolder, TokenIssuer, TokenRefusal } from '../pki/tokens.ts'

/** Of a call, lower-case names. */
export type CallMetadata = ReadonlyMap<string, string>

export type CallerVerdict =
  | ({ readonly ok: true } & TokenHolder)
  | { readonly ok: false; readonly code: 'unauthenticated'; readonly because: string }

const sentences: Readonly<Record<TokenRefusal, string>> = {
  missing: 'there is no bearer token in the call',
  malformed: 'the token is not one of ours',
  badSignature: 'the token was not signed by this control plane',
  expired: 'the token has expired',
  notYetValid: 'the token is not valid yet',
  wrongAudience: 'the token is for another audience',
  wrongIssuer: 'the token is of another issuer',
  noNode: 'the token names no node',
}

/** Asks the token, and that the caller does not take us for another cluster's control plane. Never rejects for what a caller sent. */
export function callerCheck(tokens: Pick<TokenIssuer, 'verifyHeader'>, audience: string, clusterId: string): (metadata: CallMetadata) => Promise<CallerVerdict> {
  return async (metadata) => {
    const verdict = await tokens.verifyHeader(metadata.get('authorization'), audience)
    if (!verdict.ok) return { ok: false, code: 'unauthenticated', because: sentences[verdict.because] }
    const cluster = metadata.get('clusterid')
    if (cluster !== undefined && cluster !== clusterId) {
      return { ok: false, code: 'unauthenticated', because: `this is the control plane of cluster ${clusterId}, not of ${JSON.stringify(cluster.slice(0, 253))}` }
    }
    return verdict
  }
}

export type NodeVerdict = { readonly ok: true; readonly identity: string } | { readonly ok: false; readonly code: 'permissionDenied'; readonly because: string }

/** Whether the holder of `tokenNode`'s token may be the node that the first request of its stream claims to be (NODE_NAME). */
export function mayBeNode(tokenNode: string, metadata: Readonly<Record<string, unknown>>): NodeVerdict {
  const claimed = metadata['NODE_NAME']
  if (claimed === tokenNode) return { ok: true, identity: tokenNode }
  const what = typeof claimed === 'string' ? `as ${JSON.stringify(claimed.slice(0, 253))}` : 'without NODE_NAME in the metadata of the node'
  return { ok: false, code: 'permissionDenied', because: `the token is for node ${tokenNode}, but the request comes ${what}` }
}
