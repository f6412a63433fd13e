// CORS as a route asks for it: preflights are answered here, other answers get the route's headers in place of the backend's.
import type { HeaderList } from '../../policy/l7/cors.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { RequestHead } from '../../policy/l7/request-head.ts'
import type { Response } from '../http/message.ts'
import type { CompiledRule } from '../router.ts'

export type CorsStep =
  | { readonly t: 'answer'; readonly response: Response & { t: 'response' } }
  /** For changeAnswer(). */
  | { readonly t: 'goOn'; readonly headers: HeaderList | undefined }

const goOn: CorsStep = { t: 'goOn', headers: undefined }

export function corsStep({ cors }: CompiledRule, head: RequestHead): CorsStep {
  if (!cors) return goOn
  const decision = cors.decide(head)
  if (decision.t !== 'preflight') return { t: 'goOn', headers: decision.headers }
  return { t: 'answer', response: { t: 'response', status: 204, headers: HeaderMap.of(decision.headers) } }
}

const backendsOwn = [
  'access-control-allow-origin', 'access-control-allow-credentials', 'access-control-expose-headers',
  'access-control-allow-methods',
  'access-control-allow-headers', 'access-control-max-age',
]

/** `list` as corsStep() gave it. What a backend says of origins is not for it to say where the route does. */
export function changeAnswer(headers: HeaderMap, list: HeaderList | undefined): void {
  if (!list) return
  for (const name of backendsOwn) headers.delete(name)
  for (const [name, value] of list) {
    if (name !== 'vary') headers.set(name, value)
    else if (!variesBy(headers, value)) headers.append(name, value)
  }
}

function variesBy(headers: HeaderMap, name: string): boolean {
  const wanted = name.toLowerCase()
  return (headers.get('vary') ?? '').toLowerCase().split(',').some((each) => each.trim() === wanted || each.trim() === '*')
}
