// The questions of active checks: an HTTP request with an expected status, and gRPC's health service
// (grpc/health/v1/health.proto). Each answer is read to its end or thrown away, within the rule's time.
import { Readable } from 'node:stream'
import type { MeshError } from '../../core/errors.ts'
import { isExpectedStatus } from '../../policy/l7/active-check.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { Outcome, Upstream } from '../http/forward.ts'
import type { CheckRule } from './active-checks.ts'

type Failed = (error: MeshError) => boolean | undefined

/** More of an answer is of no interest. */
const mostBytes = 65_536
const serving = 1

export async function probeHttp(upstream: Upstream, rule: CheckRule, host: string, failed: Failed): Promise<boolean | undefined> {
  const outcome = await upstream.send({
    method: 'GET', scheme: 'http', authority: host, target: rule.path ?? '/',
    headers: HeaderMap.of([['user-agent', 'sidestep-check']]),
    headTimeoutMs: rule.timeoutMs, idleTimeoutMs: rule.timeoutMs,
  })
  if (outcome.t === 'failure') return failed(outcome.error)
  await readAnswer(outcome)
  return outcome.t === 'response' && isExpectedStatus(outcome.status, rule)
}

export async function probeGrpc(upstream: Upstream, rule: CheckRule, host: string, failed: Failed): Promise<boolean | undefined> {
  const outcome = await upstream.send({
    method: 'POST', scheme: 'http', authority: host, target: '/grpc.health.v1.Health/Check',
    headers: HeaderMap.of([['content-type', 'application/grpc'], ['user-agent', 'sidestep-check']]),
    body: Readable.from([frameOf(rule.service ?? '')]), acceptsTrailers: true,
    headTimeoutMs: rule.timeoutMs, idleTimeoutMs: rule.timeoutMs,
  })
  if (outcome.t === 'failure') return failed(outcome.error)
  const bytes = await readAnswer(outcome)
  if (outcome.t !== 'response' || outcome.status !== 200 || !bytes) return false
  const status = outcome.trailers()?.get('grpc-status') ?? outcome.headers.get('grpc-status')
  return status === '0' && servingStatus(bytes) === serving
}

/** HealthCheckRequest { string service = 1 } in a frame of gRPC. */
function frameOf(service: string): Buffer {
  const name = Buffer.from(service, 'utf8').subarray(0, 16_383)
  const length = name.length < 128 ? [name.length] : [(name.length & 0x7f) | 0x80, name.length >> 7]
  const message = name.length === 0 ? Buffer.alloc(0) : Buffer.concat([Buffer.from([0x0a, ...length]), name])
  const head = Buffer.alloc(5)
  head.writeUInt32BE(message.length, 1)
  return Buffer.concat([head, message])
}

/** HealthCheckResponse { ServingStatus status = 1 }: its number; undefined for anything else. */
export function servingStatus(bytes: Uint8Array): number | undefined {
  if (bytes.length < 5 || bytes[0] !== 0) return undefined
  const length = Buffer.from(bytes).readUInt32BE(1)
  const message = bytes.subarray(5, 5 + length)
  if (message.length !== length) return undefined
  // A message of one small enum is one tag and one byte; an absent field is 0.
  if (length === 0) return 0
  return message[0] === 0x08 && message.length >= 2 && (message[1] ?? 0) < 0x80 ? message[1] : undefined
}

/** Undefined if it did not come whole, or is more than anybody needs. */
function readAnswer(outcome: Exclude<Outcome, { t: 'failure' }>): Promise<Buffer | undefined> {
  if (outcome.t === 'upgraded') {
    outcome.stream.destroy()
    return Promise.resolve(undefined)
  }
  const { body } = outcome
  if (!body) return Promise.resolve(Buffer.alloc(0))
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    let size = 0
    body.on('data', (chunk: Buffer) => {
      size += chunk.length
      chunks.push(chunk)
      if (size > mostBytes) body.destroy()
    })
    body.once('end', () => resolve(Buffer.concat(chunks)))
    body.once('close', () => resolve(undefined))
  })
}
