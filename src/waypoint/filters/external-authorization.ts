// Asks an authorizer outside whether a request may pass, by Envoy's two contracts: envoy.service.auth.v3.Authorization/Check over
// gRPC, or a request of the same method and path over HTTP, where 200 says yes. It is reached as any service of the mesh, as
// ourselves. What it sets on a request or an answer cannot break out of a header, nor change the path or host that was judged.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import type { Clock } from '../../core/clock.ts'
import { describeError, MeshError } from '../../core/errors.ts'
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import type { NamespacedHostname, Service } from '../../model/workload.ts'
import type { AuthorizationProvider } from '../../model/waypoint-config.ts'
import { isChangeable } from '../../policy/l7/header-change.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import {
  CheckRequestSchema, CheckResponseSchema, HeaderValueOption_HeaderAppendAction as AppendAction,
} from '../../proto/external_auth_pb.ts'
import type {
  AttributeContext_HttpRequestSchema, AttributeContextSchema, CheckResponse, HeaderValueOption,
} from '../../proto/external_auth_pb.ts'
import type { Response } from '../http/message.ts'
import { targetOf } from '../router.ts'
import type { CheckResult, ExternalAuthorizer } from './authorization.ts'
import { fieldValueOf } from './header-values.ts'
import { localAnswer } from './local-answer.ts'
import type { CallMesh, MeshAnswer } from './mesh-call.ts'
import type { Passage } from './passage.ts'
import { peekBody } from './peek-body.ts'
import type { Peeked } from './peek-body.ts'

export interface ExternalAuthorizationOptions {
  readonly call: CallMesh
  readonly serviceOf: (name: NamespacedHostname) => Service | undefined
  readonly own: () => Identity | undefined
  readonly clock: Clock
}

const mostAnswerBytes = 1_048_576
const checkPath = '/envoy.service.auth.v3.Authorization/Check'
/** A body that comes slowly is judged by what has come. */
const longestPeekMs = 1_000

export function makeExternalAuthorizer(options: ExternalAuthorizationOptions): ExternalAuthorizer {
  return {
    async check(provider, passage) {
      const at = provider.service.indexOf('/')
      const service = options.serviceOf({ namespace: provider.service.slice(0, at), hostname: provider.service.slice(at + 1) })
      if (!service) return { t: 'away', detail: `there is no service ${provider.service}` }
      try {
        const peeked = await peek(provider, passage, options.clock)
        const ask = { provider, passage, service, peeked, options }
        return provider.protocol === 'grpc' ? await checkByGrpc(ask) : await checkByHttp(ask)
      } catch (error) {
        return { t: 'away', detail: describeError(error) }
      }
    },
  }
}

interface Ask {
  readonly provider: AuthorizationProvider
  readonly passage: Passage
  readonly service: Service
  readonly peeked: Peeked | undefined
  readonly options: ExternalAuthorizationOptions
}

function peek({ bodyBytes, timeoutMs }: AuthorizationProvider, { request }: Passage, clock: Clock): Promise<Peeked> | undefined {
  return bodyBytes > 0 && request.hasBody ? peekBody(
    request.body, bodyBytes, { clock, withinMs: Math.min(timeoutMs, longestPeekMs) },
  ) : undefined
}

async function checkByGrpc({ provider, passage, service, peeked, options }: Ask): Promise<CheckResult> {
  const message = toBinary(CheckRequestSchema, create(CheckRequestSchema, { attributes: attributesOf(passage, peeked, options) }))
  const answer = await options.call({
    service, port: provider.port, method: 'POST', target: checkPath, isGrpc: true, timeoutMs: provider.timeoutMs,
    maxBytes: mostAnswerBytes,
    signal: passage.request.signal, body: framed(message), headers: HeaderMap.of([['content-type', 'application/grpc']]),
  })
  const status = answer.headers.get('grpc-status') ?? answer.trailers?.get('grpc-status')
  if (answer.status !== 200 || status !== '0') throw new MeshError(
    'BAD_MESSAGE', `it answered ${answer.status} with the gRPC status ${status ?? 'none'}`, { source: 'upstream' },
  )
  return readCheckResponse(readFrame(answer.body), passage)
}

/** One message, not compressed (gRPC over HTTP/2, Length-Prefixed-Message). */
function framed(message: Uint8Array): Buffer {
  const frame = Buffer.alloc(5 + message.length)
  frame.writeUInt32BE(message.length, 1)
  frame.set(message, 5)
  return frame
}

/** Throws BAD_MESSAGE for anything but exactly one message that is not compressed and parses. */
export function readFrame(bytes: Buffer): CheckResponse {
  if (bytes.length < 5 || bytes[0] !== 0 || bytes.readUInt32BE(1) !== bytes.length - 5) throw new MeshError(
    'BAD_MESSAGE', 'it answered with no whole message', { source: 'upstream' },
  )
  try {
    return fromBinary(CheckResponseSchema, bytes.subarray(5))
  } catch (error) {
    throw new MeshError('BAD_MESSAGE', 'its answer does not parse', { source: 'upstream', cause: error })
  }
}

/** Headers of requests are bytes; protobuf wants text. */
const textOf = (value: string): string => Buffer.from(value, 'latin1').toString('utf8')

function attributesOf(
  passage: Passage, peeked: Peeked | undefined, { own, clock }: ExternalAuthorizationOptions,
): MessageInitShape<typeof AttributeContextSchema> {
  const { context: { caller, target, serverName }, head } = passage
  const self = own()
  const port = target.t === 'listener' ? target.listener.port : target.port
  const address = target.t === 'service' ? target.service.addresses[0]?.ip : target.t === 'workload' ? target.workload.ips[0]
    : undefined
  return {
    source: {
      address: { socketAddress: { address: caller.address.ip, portValue: caller.address.port } },
      ...(head.sourceIdentity !== undefined && { principal: head.sourceIdentity }),
    },
    destination: {
      address: { socketAddress: { address: address ?? '0.0.0.0', portValue: port } },
      ...(self && { principal: formatIdentity(self) }),
    },
    request: { time: timestampFromMs(clock.nowMs()), http: httpOf(passage, peeked) },
    ...(serverName !== undefined && { tlsSession: { sni: serverName } }),
  }
}

function httpOf(
  { request, head }: Passage, peeked: Peeked | undefined,
): MessageInitShape<typeof AttributeContext_HttpRequestSchema> {
  const path = targetOf(head.path.path, head.query)
  const headers: Record<string, string> = {
    ':authority': head.authority, ':method': head.method, ':path': path, ':scheme': head.scheme,
  }
  for (const name of head.headers.names()) headers[name] = textOf(head.headers.get(name) ?? '')
  if (peeked) headers['x-envoy-auth-partial-body'] = String(!peeked.isWhole)
  return {
    id: head.headers.get('x-request-id') ?? '', method: head.method, headers, path, host: head.authority, scheme: head.scheme,
    size: BigInt(request.contentLength ?? -1), protocol: request.protocol === 'http2' ? 'HTTP/2' : 'HTTP/1.1',
    ...(peeked && { body: peeked.bytes.toString('utf8') }),
  }
}

function readCheckResponse({ status, httpResponse }: CheckResponse, passage: Passage): CheckResult {
  if (status && status.code === 0 && httpResponse.case !== 'deniedResponse') {
    const ok = httpResponse.case === 'okResponse' ? httpResponse.value : undefined
    const changes = (ok?.headers ?? []).flatMap(changeOf)
    const removed = (ok?.headersToRemove ?? []).filter(isChangeable)
    return {
      t: 'allowed',
      apply: (headers) => {
        for (const name of removed) headers.delete(name)
        for (const change of changes) change(headers)
      },
      answerHeaders: (ok?.responseHeadersToAdd ?? []).flatMap(({ header }) => pairOf(
        header?.key, header?.value, header?.rawValue,
      )),
    }
  }
  const refused = httpResponse.case === 'deniedResponse' ? httpResponse.value : undefined
  const code = refused?.status?.code ?? 0
  const headers = new HeaderMap()
  for (const change of (refused?.headers ?? []).flatMap(changeOf)) change(headers)
  return refusal(
    passage, { status: code >= 200 && code <= 599 ? code : 403, headers, body: Buffer.from(refused?.body ?? '') },
    `code ${status?.code ?? 'none'}`,
  )
}

/**
 * `append` counts where it is given; else the action, of which the default means to set (external_auth.proto says so of these
 * messages).
 */
function changeOf({ header, append, appendAction }: HeaderValueOption): ((headers: HeaderMap) => void)[] {
  return pairOf(header?.key, header?.value, header?.rawValue).map(([name, value]) => (headers) => {
    if (append === true) headers.append(name, value)
    else if (append === undefined && appendAction === AppendAction.ADD_IF_ABSENT && headers.has(name)) return
    else if (append === undefined && appendAction === AppendAction.OVERWRITE_IF_EXISTS && !headers.has(name)) return
    else headers.set(name, value)
  })
}

function pairOf(
  key: string | undefined, value: string | undefined, raw: Uint8Array | undefined,
): (readonly [name: string, value: string])[] {
  const text = fieldValueOf(raw && raw.length > 0 ? Buffer.from(raw).toString('utf8') : (value ?? ''))
  return key !== undefined && isChangeable(key) && text !== undefined ? [[key.toLowerCase(), text]] : []
}

async function checkByHttp({ provider, passage, service, peeked, options }: Ask): Promise<CheckResult> {
  const { head } = passage
  const headers = new HeaderMap()
  const names = new Set(['authorization', ...provider.includeRequestHeaders, ...(peeked ? ['content-type'] : [])])
  for (const name of names) if (isChangeable(name)) for (const value of head.headers.all(name)) headers.append(name, value)
  if (peeked) headers.set('x-envoy-auth-partial-body', String(!peeked.isWhole))
  const answer = await options.call({
    service, port: provider.port, method: head.method, authority: head.authority,
    target: targetOf(provider.pathPrefix + head.path.path, head.query),
    headers, timeoutMs: provider.timeoutMs, maxBytes: mostAnswerBytes, signal: passage.request.signal,
    ...(peeked && { body: peeked.bytes }),
  })
  if (answer.status >= 500) throw new MeshError('BAD_MESSAGE', `it answered ${answer.status}`, { source: 'upstream' })
  if (answer.status !== 200) return refusal(passage, toClient(answer, provider), `status ${answer.status}`)
  const removed = (answer.headers.get('x-envoy-auth-headers-to-remove') ?? '').split(',').map((name) =>
    name.trim()).filter(isChangeable)
  return {
    t: 'allowed', answerHeaders: [],
    apply: (target) => {
      for (const name of removed) target.delete(name)
      for (const name of provider.headersToUpstream) {
        const values = isChangeable(name) ? answer.headers.all(name) : []
        if (values.length > 0) target.delete(name)
        for (const value of values) target.append(name, value)
      }
    },
  }
}

/** Without a list all headers of the answer are the client's. */
function toClient({ status, headers, body }: MeshAnswer, { headersToDownstream }: AuthorizationProvider): {
  status: number; headers: HeaderMap; body: Buffer
} {
  const always = ['location', 'www-authenticate', 'content-type', 'content-encoding']
  const kept = new HeaderMap()
  for (const [name, value] of headers.entries()) {
    if (isChangeable(name) && (
      headersToDownstream.length === 0 || always.includes(name) || headersToDownstream.includes(name)
    )) kept.append(name, value)
  }
  return { status, headers: kept, body }
}

function refusal(
  { request }: Passage,
  { status, headers, body }: { readonly status: number; readonly headers: HeaderMap; readonly body: Buffer }, detail: string,
): CheckResult {
  if (request.isGrpc) {
    const message = body.length > 0 && body.length <= 1_024 ? body.toString('utf8') : 'the request is not allowed'
    return { t: 'refused', response: localAnswer(request, { status, message }), detail }
  }
  const response: Response & { t: 'response' } = { t: 'response', status, headers, ...(body.length > 0 && { body }) }
  return { t: 'refused', response, detail }
}
