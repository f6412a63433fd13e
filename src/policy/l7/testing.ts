// Request heads for the tests and benchmarks of this directory.
import { normalisePath } from './path.ts'
import { HeaderMap, type RequestHead } from './request-head.ts'

export interface HeadParts {
  readonly method?: string
  readonly scheme?: 'http' | 'https'
  readonly authority?: string
  readonly query?: string
  readonly headers?: Iterable<readonly [string, string]>
  readonly sourceIdentity?: string
  readonly sourceNamespace?: string
}

/** Throws if the path is one that would be refused. */
export function headOf(rawPath: string, { headers = [], ...parts }: HeadParts = {}): RequestHead {
  const decision = normalisePath(rawPath)
  if (decision.t === 'refused') throw new Error(`${rawPath} is refused: ${decision.because}`)
  const { path, matched } = decision
  return { method: 'GET', scheme: 'http', authority: 'shop.test', query: '', ...parts, path: { path, matched },
    headers: HeaderMap.of(headers) }
}
