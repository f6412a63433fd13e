// What an L7 authorization decision looks at, and which texts a matcher is held against. A request that can be read in two ways
// (a header sent twice, a method in lower case) is read so that it is refused: matchers that refuse look at every reading,
// matchers that permit only at the plainest.
import { hostOf, type HeaderValues, type RequestHead } from './request-head.ts'
import { packIp, type PackedIp } from '../../model/cidr-map.ts'
import { factsOf, type Facts, type PeerConnection } from '../rbac-facts.ts'

/** A token whose signature, issuer and times were verified. */
export interface VerifiedToken {
  readonly issuer: string
  readonly subject?: string
  readonly audiences: readonly string[]
  /** `azp`. */
  readonly presenter?: string
  /** As JSON.parse gave them. */
  readonly claims: Readonly<Record<string, unknown>>
}

export interface AuthorizationRequest {
  readonly head: RequestHead
  /** The caller in the mesh; `sourceIp` is its real address, not that of a proxy between. */
  readonly connection: PeerConnection
  /** The client before trusted proxies; the caller itself if there are none. */
  readonly remoteIp: string
  readonly serverName?: string
  readonly token?: VerifiedToken
}

/** What a match that holds leads to: a matcher of ALLOW permits, one of DENY, CUSTOM and AUDIT refuses (or watches). */
export type Sense = 'permit' | 'refuse'

const nothing: readonly string[] = Object.freeze([])

/** The request as matchers want it. Each method gives the texts that a pattern may hold for; none if there is no such thing. */
export class RequestFacts {
  readonly l4: Facts
  readonly remote: PackedIp
  readonly #request: AuthorizationRequest
  readonly path: readonly string[]
  readonly #plainMethod: readonly string[]
  #methods: readonly string[] | undefined
  #hosts: readonly string[] | undefined

  constructor(request: AuthorizationRequest, l4: Facts, remote: PackedIp) {
    this.#request = request
    this.l4 = l4
    this.remote = remote
    this.path = [request.head.path.matched]
    this.#plainMethod = [request.head.method]
  }

  /** Undefined if one of the addresses is none: nothing can be decided about such a request. */
  static of(request: AuthorizationRequest): RequestFacts | undefined {
    const l4 = factsOf(request.connection)
    const remote = packIp(request.remoteIp)
    return l4 && remote ? new RequestFacts(request, l4, remote) : undefined
  }

  /** Methods have case; a backend may not know. */
  method(sense: Sense): readonly string[] {
    if (sense === 'permit') return this.#plainMethod
    const { method } = this.#request.head
    return (this.#methods ??= method.toUpperCase() === method ? this.#plainMethod : [method, method.toUpperCase()])
  }

  /** With and without port: both name the host. */
  host(): readonly string[] {
    if (this.#hosts) return this.#hosts
    const authority = this.#request.head.authority.toLowerCase()
    const host = hostOf(authority)
    return (this.#hosts = host === authority ? [host] : [host, authority])
  }

  /** All values joined; what refuses also looks at each line and each element of a list. */
  header(name: string, sense: Sense): readonly string[] {
    return headerTexts(this.#request.head.headers, name, sense)
  }

  requestPrincipal(): readonly string[] {
    const { token } = this.#request
    const isWhole = token && token.issuer !== '' && token.subject !== undefined && token.subject !== ''
    return isWhole ? [`${token.issuer}/${token.subject}`] : nothing
  }

  audience(): readonly string[] {
    return this.#request.token?.audiences ?? nothing
  }

  presenter(): readonly string[] {
    const presenter = this.#request.token?.presenter
    return presenter === undefined ? nothing : [presenter]
  }

  serverName(): readonly string[] {
    const { serverName } = this.#request
    return serverName === undefined ? nothing : [serverName.toLowerCase()]
  }

  claim(path: readonly string[]): readonly string[] {
    const { token } = this.#request
    return token ? claimTexts(token.claims, path) : nothing
  }
}

function headerTexts(headers: HeaderValues, name: string, sense: Sense): readonly string[] {
  const joined = headers.get(name)
  if (joined === undefined) return nothing
  if (sense === 'permit' || !joined.includes(',')) return [joined]
  return [joined, ...headers.all(name), ...joined.split(',').map((element) => element.trim())]
}

/** Strings, numbers and truth values, alone or in a list. `scope` and `permission` are lists with spaces too (RFC 8693, 4.2). */
export function claimTexts(claims: Readonly<Record<string, unknown>>, path: readonly string[]): readonly string[] {
  let value: unknown = claims
  for (const name of path) {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || !Object.hasOwn(value, name)) return nothing
    value = Reflect.get(value, name)
  }
  const list: readonly unknown[] = Array.isArray(value) ? value : [value]
  const texts = list.flatMap((each) => (['string', 'number', 'boolean'].includes(typeof each) ? [String(each)] : []))
  const isSpaced = path.length === 1 && (path[0] === 'scope' || path[0] === 'permission')
  if (!isSpaced) return texts
  return [...texts, ...texts.flatMap((text) => (text.includes(' ') ? text.split(' ').filter((part) => part !== '') : []))]
}
