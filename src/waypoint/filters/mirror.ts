// Copies of requests for the mirrors of a route. A copy never delays the request by more than a moment and never changes it: a
// body that is long, or does not come at once, is not copied, and then there is no mirrored request at all rather than half of
// one.
import type { Clock } from '../../core/clock.ts'
import { chooseMirrors } from '../../policy/l7/mirror.ts'
import type { Mirror } from '../../model/route.ts'
import type { BackendTarget, Forwarder, OutgoingHead } from '../forwarding.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { CompiledRule } from '../router.ts'
import { peekBody } from './peek-body.ts'

export interface MirrorParts {
  readonly clock: Clock
  readonly random: () => number
  readonly forwarder: Forwarder
  readonly targetOf: (mirror: Mirror) => BackendTarget | undefined
}

/** Bytes of a body. */
const mostBytes = 65_536
const bodyWithinMs = 50

export async function sendMirrors(
  compiled: CompiledRule, request: Request<ConnectionContext>, head: OutgoingHead, parts: MirrorParts,
): Promise<void> {
  const mirrors = chooseMirrors(compiled.rule.mirrors, parts.random)
  if (mirrors.length === 0 || request.upgrade !== undefined) return
  let body: Uint8Array | undefined
  if (request.hasBody) {
    if (request.contentLength !== undefined && request.contentLength > mostBytes) return
    const { bytes, isWhole } = await peekBody(request.body, mostBytes, { clock: parts.clock, withinMs: bodyWithinMs })
    if (!isWhole) return
    body = Buffer.from(bytes)
  }
  for (const mirror of mirrors) {
    const to = parts.targetOf(mirror)
    if (!to) continue
    const headers = head.headers.copy()
    compiled.backends.get(mirror.backend)?.request?.apply(headers)
    parts.forwarder.mirror({ request, head: { ...head, headers }, to }, body)
  }
}
