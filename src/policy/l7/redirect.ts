// Where a redirect points (Gateway API, HTTPRequestRedirect). Only what the rule says and the canonical request go into the
// Location, escaped, so that no client can have a header of its own written, or be sent to a host that it named in a path.
import type { Redirect, RequestMatch } from '../../model/route.ts'
import { compilePathRewrite } from './rewrite.ts'
import { hostOf, type RequestHead } from './request-head.ts'
import type { NormalPath, PathRules } from './path.ts'

export interface RedirectAnswer {
  readonly status: number
  readonly location: string
}

export interface CompiledRedirect {
  /** Undefined where the rewritten path is no path (answer 400). `listenerPort` is the port that the client connected to. */
  answer(head: RequestHead, match: RequestMatch | undefined, listenerPort: number): RedirectAnswer | undefined
}

const defaultPorts: Readonly<Record<string, number>> = { http: 80, https: 443 }

/** Throws MeshError BAD_CONFIG for a bad pattern. */
export function compileRedirect(redirect: Redirect, rules?: PathRules): CompiledRedirect {
  const rewrite = redirect.path && compilePathRewrite(redirect.path, rules)
  return {
    answer(head, match, listenerPort) {
      const scheme = redirect.scheme ?? head.scheme
      const host = (redirect.hostname ?? hostOf(head.authority)).toLowerCase()
      if (!isHost(host)) return undefined
      const port = portOf(redirect, listenerPort)
      const shown = port === undefined || port === defaultPorts[scheme] ? host : `${host}:${port}`
      const path: NormalPath | undefined = rewrite ? rewrite.apply(head.path, match) : head.path
      if (!path || !path.path.startsWith('/')) return undefined
      const query = head.query === '' ? '' : `?${escapeQuery(head.query)}`
      return { status: redirect.status, location: `${scheme}://${shown}${path.path}${query}` }
    },
  }
}

/** Said, that one; a scheme alone brings its own; else the one that the client used. */
function portOf({ port, scheme }: Redirect, listenerPort: number): number | undefined {
  return port ?? (scheme === undefined ? listenerPort : undefined)
}

function isHost(host: string): boolean {
  return /^(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])$/.test(host) && host.length <= 255
}

/** Anything that is no query character becomes its UTF-8 escape; what is escaped stays. */
function escapeQuery(query: string): string {
  return query.replaceAll(/[^A-Za-z0-9\-._~!$&'()*+,;=:@/?%]/g, (char) => {
    const code = char.charCodeAt(0)
    // Characters of a request head are bytes.
    return `%${(code & 0xff).toString(16).toUpperCase().padStart(2, '0')}`
  })
}
