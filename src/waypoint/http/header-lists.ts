// Headers in the shapes that Node's two servers take them in. Nothing is checked here: strict.ts did, or the handler made them.
import type { OutgoingHttpHeaders } from 'node:http2'
import type { Readable } from 'node:stream'
import type { HeaderMap } from '../../policy/l7/request-head.ts'

export function isStream(body: unknown): body is Readable {
  return typeof body === 'object' && body !== null && 'pipe' in body
}

/** Headers as Node's http2 takes them. */
export function fields(headers: HeaderMap): OutgoingHttpHeaders {
  const list: Record<string, string | string[]> = Object.create(null)
  for (const [name, value] of headers.entries()) {
    const known = list[name]
    if (known === undefined) list[name] = value
    else if (typeof known === 'string') list[name] = [known, value]
    else known.push(value)
  }
  return list
}
