// Ends the record of an exchange when its answer is out: after the last byte of a body and its trailers, at the end of an
// upgraded stream, or at once where there is neither. Changes nothing of the answer, and reads none of it ahead.
import { EventEmitter } from 'node:events'
import type { Duplex, Readable } from 'node:stream'
import { MeshError } from '../../core/errors.ts'
import { parseGrpcStatus } from '../../policy/l7/grpc.ts'
import { hasContent } from '../http/exchange.ts'
import type { Request, Response } from '../http/message.ts'
import { join } from '../http/pump.ts'
import { RequestBody } from '../http/request-body.ts'
import type { LiveRecord } from '../record.ts'
import { GrpcMessages } from '../telemetry/grpc-messages.ts'

/** To be called before the body is read. */
export function countMessages({ isGrpc, body }: Request): GrpcMessages | undefined {
  if (!isGrpc || !(body instanceof RequestBody)) return undefined
  const messages = new GrpcMessages()
  body.tap = (chunk) => messages.add(chunk)
  return messages
}

/** The response to be given to the front; `record` is finished through it. */
export function finishing(
  response: Response, request: Request, record: LiveRecord, messages: GrpcMessages | undefined,
): Response {
  if (response.t === 'upgrade') {
    record.answered(101, response.headers)
    return response
  }
  const { status, headers, body, trailers } = response
  record.answered(status, headers)
  const inHeaders = request.isGrpc ? parseGrpcStatus(headers.get('grpc-status')) : undefined
  if (body === undefined || typeof body === 'string' || body instanceof Uint8Array || !hasContent(request.head.method, status)) {
    const isSent = (typeof body === 'string' || body instanceof Uint8Array) && hasContent(request.head.method, status)
    record.finish({
      status, requestBytes: bytesOf(request), responseBytes: isSent ? Buffer.byteLength(body) : 0, isCut: false,
      ...grpcStatusOf(inHeaders),
    })
    return response
  }
  let responseBytes = 0
  let isWhole = false
  const answered = messages && new GrpcMessages()
  onData(body, (chunk) => {
    responseBytes += chunk.length
    answered?.add(chunk)
  })
  body.once('end', () => {
    isWhole = true
  })
  body.on('error', (error) => because(error, record))
  const end = (): void => {
    if (!isWhole && body.errored === null) record.because('clientGone')
    const last = request.isGrpc && inHeaders === undefined ? parseGrpcStatus(trailers?.()?.get('grpc-status')) : inHeaders
    record.finish({
      status, requestBytes: bytesOf(request), responseBytes, isCut: !isWhole, ...grpcStatusOf(last),
      ...(messages && answered && { requestMessages: messages.count, responseMessages: answered.count }),
    })
  }
  if (body.closed) end()
  else body.once('close', end)
  return response
}

function because(error: unknown, record: LiveRecord): void {
  if (!(error instanceof MeshError)) record.because('upstreamReset')
  else if (error.code === 'REQUEST_CUT') record.because('clientGone')
  else record.because(error.code === 'UPSTREAM_TIMEOUT' ? 'upstreamTimeout' : 'upstreamReset', error.message)
}

/** Joins the client's stream with the backend's, and ends the record with them. */
export function carryUpgraded(client: Duplex, upstream: Duplex, record: LiveRecord): void {
  let fromClient = 0
  let toClient = 0
  onData(client, (chunk) => (fromClient += chunk.length))
  onData(upstream, (chunk) => (toClient += chunk.length))
  record.follow(() => [fromClient, toClient])
  void join(client, upstream).then(({ fromA, fromB, error }) => {
    if (error) record.because(client.destroyed && !upstream.errored ? 'clientGone' : 'upstreamReset')
    record.finish({ status: 101, requestBytes: fromA, responseBytes: fromB, isCut: error !== undefined })
  })
}

/** Past Readable's own on(), which would set the stream flowing before its reader wants it. */
function onData(stream: Readable, call: (chunk: Uint8Array) => void): void {
  EventEmitter.prototype.on.call(stream, 'data', call)
}

const grpcStatusOf = (status: number | undefined): { readonly grpcStatus?: number } => (
  status === undefined ? {} : { grpcStatus: status }
)

/** What was read of the request's body. */
function bytesOf({ body }: Request): number {
  return body instanceof RequestBody ? body.bytes : 0
}
