// Answers that we give ourselves: text that a person can read, a problem (RFC 9457) for who asked for JSON, a status in headers
// for gRPC. Never says more of the inside than the reason: no addresses, no names of policies.
import { STATUS_CODES } from 'node:http'
import { encodeGrpcMessage, grpcFromHttp } from '../../policy/l7/grpc.ts'
import type { HeaderList } from '../../policy/l7/cors.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Request, Response } from '../http/message.ts'

export interface LocalAnswer {
  readonly status: number
  /** A sentence for the client. */
  readonly message: string
  /** Where the HTTP status says less. */
  readonly grpcStatus?: number
  readonly headers?: HeaderList
  /** In place of the message, for who speaks plain HTTP. */
  readonly body?: { readonly type: string; readonly text: string }
  /** The message as it is, whatever the client prefers. */
  readonly isPlain?: true
}

const wantsJson = /\bapplication\/(?:problem\+)?json\b/i

export function localAnswer(request: Pick<Request, 'isGrpc' | 'head'>, answer: LocalAnswer): Response & { t: 'response' } {
  const headers = HeaderMap.of(answer.headers ?? [])
  if (request.isGrpc) {
    headers.set('content-type', 'application/grpc')
    headers.set('grpc-status', String(answer.grpcStatus ?? grpcFromHttp(answer.status)))
    headers.set('grpc-message', encodeGrpcMessage(answer.message))
    return { t: 'response', status: 200, headers }
  }
  const { type, text } = answer.body ?? bodyOf(request, answer)
  if (text === '') return { t: 'response', status: answer.status, headers }
  headers.set('content-type', type)
  return { t: 'response', status: answer.status, headers, body: text }
}

function bodyOf({ head }: Pick<Request, 'head'>, { status, message, isPlain }: LocalAnswer): NonNullable<LocalAnswer['body']> {
  const accept = head.headers.get('accept')
  if (isPlain || accept === undefined || !wantsJson.test(accept) || accept.includes('text/html')) return {
    type: 'text/plain', text: message,
  }
  return {
    type: 'application/problem+json',
    text: JSON.stringify({ type: 'about:blank', title: STATUS_CODES[status] ?? 'Error', status, detail: message }),
  }
}
