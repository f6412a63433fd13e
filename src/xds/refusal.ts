// How a NACK says which resources of a push were refused and why: google.rpc.BadRequest in the details of the status, and the
// same as text in its message for servers and people who read that.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { DeltaDiscoveryRequestSchema } from '../proto/discovery_pb.ts'
import { BadRequestSchema } from '../proto/rpc_pb.ts'
import type { Status } from '../proto/rpc_pb.ts'
import type { Rejection } from './resource-cache.ts'

const badRequestUrl = 'type.googleapis.com/google.rpc.BadRequest'
const invalidArgument = 3
// A push may be bad throughout; its refusal need not be as long.
const maxNamed = 200
const maxReason = 300

/** The error_detail of a NACK; nothing if there is nothing to refuse. */
export function refusalStatus(rejections: readonly Rejection[]): Pick<MessageInitShape<typeof DeltaDiscoveryRequestSchema>, 'errorDetail'> {
  if (rejections.length === 0) return {}
  const named = rejections.slice(0, maxNamed).map(({ name, because }) => ({ field: name, description: because.slice(0, maxReason) }))
  const more = rejections.length > named.length ? `; and ${rejections.length - named.length} more` : ''
  return {
    errorDetail: {
      code: invalidArgument,
      message: named.map(({ field, description }) => `${field}: ${description}`).join('; ') + more,
      details: [{ typeUrl: badRequestUrl, value: toBinary(BadRequestSchema, create(BadRequestSchema, { fieldViolations: named })) }],
    },
  }
}

/**
 * Which of the pushed resources a NACK refuses. A peer that gives no details (Istio's ztunnel) is understood by the names in
 * its text; where no name is found the name is '' and the reason stands for the whole push. Never throws.
 */
export function readRefusal(status: Status, pushed: readonly string[]): Rejection[] {
  for (const { typeUrl, value } of status.details) {
    if (typeUrl !== badRequestUrl) continue
    try {
      const { fieldViolations } = fromBinary(BadRequestSchema, value)
      const violations = fieldViolations
        .slice(0, maxNamed)
        .map(({ field, description }) => ({ name: field, because: description.slice(0, maxReason) }))
      if (violations.length > 0) return violations
    } catch {
      // Not what it says it is: its text is left.
    }
  }
  const because = status.message.slice(0, 4 * maxReason)
  const named = pushed.filter((name) => status.message.includes(name)).slice(0, maxNamed)
  return named.length > 0 ? named.map((name) => ({ name, because })) : [{ name: '', because }]
}
