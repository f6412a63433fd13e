// The messages between Istio's node agent and its ztunnel (ZDS), for both sides: bytes and descriptors of one datagram each. What
// does not follow the protocol throws BAD_MESSAGE; nothing is guessed.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { MeshError } from '../core/errors.ts'
import { AckSchema, Version, WorkloadRequestSchema, WorkloadResponseSchema, ZdsHelloSchema } from '../proto/zds_pb.ts'
import type { WorkloadInfo, WorkloadRequest } from '../proto/zds_pb.ts'

/** What the agent asks. `uid` is the pod's; an `add` comes with the descriptor of its network namespace. */
export type ZdsRequest =
  | { readonly t: 'add'; readonly uid: string; readonly namespace: string; readonly name: string; readonly serviceAccount: string }
  | { readonly t: 'keep'; readonly uid: string }
  | { readonly t: 'delete'; readonly uid: string }
  | { readonly t: 'snapshot' }

/** As many bytes as a message to the ztunnel may have. */
export const maxZdsBytes = 1_024

function bad(text: string): MeshError {
  return new MeshError('BAD_MESSAGE', `the node agent sent ${text}`, { source: 'upstream' })
}

function checkUid(uid: string): string {
  if (uid.length === 0 || uid.length > 253) throw bad('a pod without a proper uid')
  return uid
}

function add(uid: string, info: WorkloadInfo | undefined): ZdsRequest {
  if (!info) throw bad('a pod without its name')
  const { name, namespace, serviceAccount } = info
  for (const each of [name, namespace, serviceAccount]) {
    // They become part of an identity: no slash, space or control character may get into it.
    if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(each)) throw bad('a pod with an improper name, namespace or service account')
  }
  return { t: 'add', uid: checkUid(uid), namespace, name, serviceAccount }
}

function decode(bytes: Uint8Array): WorkloadRequest {
  try {
    return fromBinary(WorkloadRequestSchema, bytes)
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'the node agent sent what is no message', { source: 'upstream', cause })
  }
}

/** `descriptors` counts those that came with it: one with an `add`, none otherwise. Throws BAD_MESSAGE. */
export function decodeRequest(bytes: Uint8Array, descriptors: number): ZdsRequest {
  const { payload } = decode(bytes)
  if (descriptors !== (payload.case === 'add' ? 1 : 0)) throw bad(`${descriptors} descriptors with a message of the kind ${payload.case ?? 'unknown'}`)
  switch (payload.case) {
    case 'add':
      return add(payload.value.uid, payload.value.workloadInfo)
    case 'keep':
      return { t: 'keep', uid: checkUid(payload.value.uid) }
    case 'del':
      return { t: 'delete', uid: checkUid(payload.value.uid) }
    case 'snapshotSent':
      return { t: 'snapshot' }
    case undefined:
      throw bad('a message of no known kind')
    default:
      return payload satisfies never
  }
}

export function encodeHello(): Uint8Array {
  return toBinary(ZdsHelloSchema, create(ZdsHelloSchema, { version: Version.V1 }))
}

/** The answer to one request; a text says that it was refused, and why. */
export function encodeAck(error = ''): Uint8Array {
  // The agent reads into a buffer of limited size.
  const ack = create(AckSchema, { error: error.slice(0, 200) })
  return toBinary(WorkloadResponseSchema, create(WorkloadResponseSchema, { payload: { case: 'ack', value: ack } }))
}

/** What the ztunnel begins with. Throws BAD_MESSAGE, also for a version that is not ours. */
export function checkHello(bytes: Uint8Array): void {
  const { version } = answerOf(() => fromBinary(ZdsHelloSchema, bytes))
  if (version !== Version.V1) throw badAnswer(`a greeting of version ${version}`)
}

/** To the ztunnel; an `add` goes with the descriptor of the pod's namespace. */
export function encodeRequest(request: ZdsRequest): Uint8Array {
  return toBinary(WorkloadRequestSchema, create(WorkloadRequestSchema, { payload: payloadOf(request) }))
}

function payloadOf(request: ZdsRequest): NonNullable<MessageInitShape<typeof WorkloadRequestSchema>['payload']> {
  switch (request.t) {
    case 'add': {
      const { uid, namespace, name, serviceAccount } = request
      return { case: 'add', value: { uid, workloadInfo: { namespace, name, serviceAccount } } }
    }
    case 'keep': return { case: 'keep', value: { uid: request.uid } }
    case 'delete': return { case: 'del', value: { uid: request.uid } }
    case 'snapshot': return { case: 'snapshotSent', value: {} }
    default: return request satisfies never
  }
}

/** The ztunnel's answer: empty, or why it refuses. Throws BAD_MESSAGE. */
export function decodeAck(bytes: Uint8Array): string {
  const { payload } = answerOf(() => fromBinary(WorkloadResponseSchema, bytes))
  if (payload.case !== 'ack') throw badAnswer('an answer of no known kind')
  return payload.value.error
}

function answerOf<T>(decoded: () => T): T {
  try {
    return decoded()
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', 'the ztunnel sent what is no message', { source: 'downstream', cause })
  }
}

function badAnswer(text: string): MeshError {
  return new MeshError('BAD_MESSAGE', `the ztunnel sent ${text}`, { source: 'downstream' })
}
