// The messages of istio.v1.auth.IstioCertificateService between bytes and what they mean. Anything may come in: only MeshError comes
// out of the readers.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { MeshError } from '../core/errors.ts'
import { IstioCertificateRequestSchema, IstioCertificateResponseSchema } from '../proto/ca_pb.ts'

export const createCertificateMethod = '/istio.v1.auth.IstioCertificateService/CreateCertificate'
const impersonatedIdentity = 'ImpersonatedIdentity'

export interface CertificateCall {
  readonly csrPem: string
  readonly ttlSeconds: number
  /** The SPIFFE identity that a node asks for on behalf of a workload. */
  readonly impersonated?: string
}

export function encodeRequest({ csrPem, ttlSeconds, impersonated }: CertificateCall): Buffer {
  const request = create(IstioCertificateRequestSchema, {
    csr: csrPem,
    validityDuration: BigInt(Math.round(ttlSeconds)),
    ...(impersonated !== undefined && { metadata: { [impersonatedIdentity]: impersonated } }),
  })
  return Buffer.from(toBinary(IstioCertificateRequestSchema, request))
}

/** Throws BAD_MESSAGE. */
export function decodeRequest(bytes: Uint8Array): CertificateCall {
  const { csr, validityDuration, metadata } = decode(() => fromBinary(IstioCertificateRequestSchema, bytes))
  const impersonated = metadata?.[impersonatedIdentity]
  if (impersonated !== undefined && typeof impersonated !== 'string') {
    throw new MeshError('BAD_MESSAGE', `${impersonatedIdentity} is not a string`)
  }
  return { csrPem: csr, ttlSeconds: Number(validityDuration), ...(impersonated !== undefined && { impersonated }) }
}

export function encodeResponse(chain: readonly string[]): Buffer {
  return Buffer.from(toBinary(IstioCertificateResponseSchema, create(IstioCertificateResponseSchema, { certChain: [...chain] })))
}

/** PEM elements, leaf first, roots last. Throws BAD_MESSAGE. */
export function decodeResponse(bytes: Uint8Array): string[] {
  return decode(() => fromBinary(IstioCertificateResponseSchema, bytes)).certChain
}

function decode<T>(read: () => T): T {
  try {
    return read()
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'not a message of the certificate service', { cause })
  }
}
