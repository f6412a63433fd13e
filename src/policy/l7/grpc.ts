// gRPC over HTTP/2 as a proxy meets it: status codes to and from HTTP, deadlines, messages in headers. Facts of the protocol
// (grpc.io: PROTOCOL-HTTP2, http-grpc-status-mapping); no decision of ours.

export const grpcStatus = {
  ok: 0, cancelled: 1, unknown: 2, invalidArgument: 3, deadlineExceeded: 4, notFound: 5, alreadyExists: 6, permissionDenied: 7,
    resourceExhausted: 8,
  failedPrecondition: 9, aborted: 10, outOfRange: 11, unimplemented: 12, internal: 13, unavailable: 14, dataLoss: 15,
    unauthenticated: 16,
} as const

const fromHttp: ReadonlyMap<number, number> = new Map<number, number>([
  [400, grpcStatus.internal], [401, grpcStatus.unauthenticated], [403, grpcStatus.permissionDenied],
    [404, grpcStatus.unimplemented],
  [429, grpcStatus.unavailable], [502, grpcStatus.unavailable], [503, grpcStatus.unavailable], [504, grpcStatus.unavailable],
])

/** What a client makes of an HTTP status without `grpc-status`. */
export function grpcFromHttp(status: number): number {
  return fromHttp.get(status) ?? grpcStatus.unknown
}

// google.rpc.Code, as its comments map it.
const toHttp = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401] as const

/** For metrics, outlier detection and people; never sent, since a gRPC answer is 200. */
export function httpFromGrpc(status: number): number {
  return toHttp[status] ?? 500
}

/** Value of `grpc-status`: 0 to 16; undefined if it is none. */
export function parseGrpcStatus(value: string | undefined): number | undefined {
  if (value === undefined || !/^\d{1,2}$/.test(value)) return undefined
  const status = Number(value)
  return status <= 16 ? status : grpcStatus.unknown
}

export function isGrpc(contentType: string | undefined): boolean {
  return contentType !== undefined && /^application\/grpc(?:$|[+; ])/i.test(contentType)
}

const unitMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 0.001, n: 0.000_001 }

/** Milliseconds of `grpc-timeout` (at most 8 digits and a unit), perhaps a fraction; undefined if it is none. */
export function parseGrpcTimeout(value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  const found = /^(\d{1,8})([HMSmun])$/.exec(value)
  const unit = unitMs[found?.[2] ?? '']
  return found && unit !== undefined ? Number(found[1]) * unit : undefined
}

/** The shortest form that is not longer than the time; at most 8 digits. */
export function formatGrpcTimeout(ms: number): string {
  const left = Math.max(0, ms)
  if (left * 1000 < 1e8) return `${Math.floor(left * 1000)}u`
  if (left < 1e8) return `${Math.floor(left)}m`
  if (left / 1000 < 1e8) return `${Math.floor(left / 1000)}S`
  return `${Math.min(99_999_999, Math.floor(left / 3_600_000))}H`
}

/** Percent-encoded UTF-8 for `grpc-message`. */
export function encodeGrpcMessage(message: string): string {
  let out = ''
  for (const byte of Buffer.from(message, 'utf8')) {
    out += byte >= 32 && byte < 127
      && byte !== 37 ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return out
}

/** Headers of an answer that has no body and no trailers ("Trailers-Only"). */
export function grpcAnswer(status: number, message: string): readonly (readonly [name: string, value: string])[] {
  return [['content-type', 'application/grpc'], ['grpc-status', String(status)], ['grpc-message', encodeGrpcMessage(message)]]
}

/** `grpc-retry-pushback-ms`: a wait, or `stop` for anything that is not one (gRFC A6). */
export function parsePushback(value: string | undefined): number | 'stop' | undefined {
  if (value === undefined) return undefined
  return /^\d{1,9}$/.test(value) ? Number(value) : 'stop'
}
