// One request on its way through the phases: what is known of it so far. Each filter reads it and changes only what is its own.
import type { VerifiedToken } from '../../policy/l7/authorization-facts.ts'
import type { HeaderMap, RequestHead } from '../../policy/l7/request-head.ts'
import type { Chain, ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { LiveRecord } from '../record.ts'
import type { FoundToken } from './token-places.ts'

/** The head with who asks in it. Path, method and authority are the client's until the end: what was judged is what is routed. */
export interface PassageHead extends RequestHead {
  readonly headers: HeaderMap
  /** A token in it that is not to be sent on goes. */
  query: string
}

export interface Passage {
  readonly request: Request<ConnectionContext>
  readonly context: ConnectionContext
  readonly record: LiveRecord
  /** One chain from the first phase to the last, whatever changes meanwhile. */
  readonly chain: Chain
  readonly head: PassageHead
  /** The client before trusted proxies. */
  readonly remoteIp: string
  token: VerifiedToken | undefined
  /** Goes once the request is authorized: an authorizer may want to see it. */
  tokenToRemove: FoundToken | undefined
  /** A token or an authorizer let it pass: its answer is not everybody's. */
  hasCredentials: boolean
  /** To be set on whatever the answer is: limits, and what an authorizer adds. */
  readonly answerHeaders: (readonly [name: string, value: string])[]
}
