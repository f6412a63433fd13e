// The control plane's side of the certificate service: who calls is established first, then the authority decides. A refusal goes
// back as a gRPC status with its reason, which is no secret to a caller that proved who it is; to others it stays short.
import { status } from '@grpc/grpc-js'
import type { Server, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js'
import { MeshError, describeError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import type { Authority, Caller, SignAnswer, SignRefusal } from './authority.ts'
import { createCertificateMethod, decodeRequest, encodeResponse } from './ca-wire.ts'

export type CaAdmission =
  | { readonly ok: true; readonly caller: Caller }
  | { readonly ok: false; readonly code: 'unauthenticated' | 'permissionDenied'; readonly because: string }

/** For metrics: `signed`, or why not. */
export type CaOutcome = 'signed' | SignRefusal | 'unauthenticated' | 'permissionDenied' | 'badMessage' | 'overloaded' | 'failed'

export interface CaServiceOptions {
  readonly authority: Pick<Authority, 'sign'>
  /** Who calls. `metadata`: of the call, lower-case names (authorization, clusterid); `peer`: address and port. */
  readonly authenticate: (call: { readonly metadata: ReadonlyMap<string, string>; readonly peer: string }) => Promise<CaAdmission>
  readonly logger: Logger
  readonly onOutcome?: (outcome: CaOutcome) => void
  /** Requests in work at once; more are told to come again. */
  readonly maxConcurrent?: number
}

const codes: Readonly<Record<SignRefusal, number>> = {
  badRequest: status.INVALID_ARGUMENT,
  badTtl: status.INVALID_ARGUMENT,
  wrongTrustDomain: status.PERMISSION_DENIED,
  notAllowed: status.PERMISSION_DENIED,
  issuerExpired: status.FAILED_PRECONDITION,
}

type Answer =
  | { readonly outcome: 'signed'; readonly bytes: Buffer }
  | { readonly outcome: Exclude<CaOutcome, 'signed'>; readonly code: number; readonly because: string }

/** Adds CreateCertificate to `server`. */
export function registerCaService(server: Server, options: CaServiceOptions): void {
  const { maxConcurrent = 64, onOutcome = () => undefined, logger } = options
  let running = 0
  const createCertificate = (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>): void => {
    const finish = (answer: Answer): void => {
      onOutcome(answer.outcome)
      if (answer.outcome === 'signed') return callback(null, answer.bytes)
      logger.debug({ 'peer.addr': call.getPeer(), because: answer.outcome, detail: answer.because }, 'certificate request refused')
      callback({ code: answer.code, details: answer.because })
    }
    if (running >= maxConcurrent) return finish({ outcome: 'overloaded', code: status.RESOURCE_EXHAUSTED, because: 'too many requests at once' })
    running++
    void answerCall(call, options).then(finish).finally(() => running--)
  }
  const same = (bytes: Buffer): Buffer => bytes
  const definition = {
    path: createCertificateMethod, requestStream: false, responseStream: false,
    requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same,
  } as const
  server.addService({ createCertificate: definition }, { createCertificate })
}

async function answerCall(call: ServerUnaryCall<Buffer, Buffer>, { authority, authenticate, logger }: CaServiceOptions): Promise<Answer> {
  try {
    const metadata = new Map(Object.entries(call.metadata.getMap()).map(([name, value]) => [name, String(value)]))
    const admission = await authenticate({ metadata, peer: call.getPeer() })
    if (!admission.ok) {
      const code = admission.code === 'unauthenticated' ? status.UNAUTHENTICATED : status.PERMISSION_DENIED
      return { outcome: admission.code, code, because: admission.because }
    }
    const { csrPem, ttlSeconds, impersonated } = decodeRequest(call.request)
    const { caller } = admission
    // Without impersonation a caller asks for itself.
    const expected = impersonated ?? (caller.identity && formatIdentity(caller.identity))
    if (expected === undefined) {
      return { outcome: 'notAllowed', code: status.PERMISSION_DENIED, because: 'the caller has no identity of its own to ask for' }
    }
    return toAnswer(await authority.sign({ csrPem, ttlSeconds, caller, expected }))
  } catch (error) {
    if (error instanceof MeshError && error.code === 'BAD_MESSAGE') {
      return { outcome: 'badMessage', code: status.INVALID_ARGUMENT, because: error.message }
    }
    logger.error({ detail: describeError(error) }, 'certificate request failed')
    return { outcome: 'failed', code: status.INTERNAL, because: 'the CA failed; its log says why' }
  }
}

function toAnswer(answer: SignAnswer): Answer {
  if (answer.t === 'refused') return { outcome: answer.reason, code: codes[answer.reason], because: answer.message }
  // The bundle is one element, so that "the last one" is the whole bundle to who reads it so.
  return { outcome: 'signed', bytes: encodeResponse([...answer.chainPem, answer.rootsPem.join('')]) }
}
