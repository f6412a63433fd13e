// Hostnames of listeners and routes: what both allow, and which is more specific. A wildcard is `*.` and holds for every name
// below it, however deep, but not for the name itself; undefined holds for all.

/** Whether every host that `narrow` holds for is one of `wide`. */
export function covers(wide: string | undefined, narrow: string | undefined): boolean {
  if (wide === undefined) return true
  if (narrow === undefined) return false
  if (wide === narrow) return true
  return wide.startsWith('*.') && narrow.endsWith(wide.slice(1)) && narrow.length > wide.length - 1
}

/** The narrower of two where they meet; `false` where they do not. */
export function intersection(a: string | undefined, b: string | undefined): string | undefined | false {
  if (covers(a, b)) return b
  return covers(b, a) ? a : false
}

/** A host that a route has at a listener, and how the route wrote it: precedence counts what is written there. */
export interface EffectiveHostname {
  /** Undefined for every host. */
  readonly hostname: string | undefined
  readonly written: string | undefined
}

/** What a route has of a listener's hosts; empty if nothing. */
export function effectiveHostnames(listener: string | undefined, route: readonly string[]): readonly EffectiveHostname[] {
  if (route.length === 0) return [{ hostname: listener, written: undefined }]
  const found = new Map<string | undefined, EffectiveHostname>()
  for (const written of [...route].sort(bySpecificity)) {
    const hostname = intersection(listener, written)
    if (hostname !== false && !found.has(hostname)) found.set(hostname, { hostname, written })
  }
  return [...found.values()]
}

/** Negative if `a` is more specific: exact names first, then the longer. */
export function bySpecificity(a: string | undefined, b: string | undefined): number {
  const rank = (hostname: string | undefined): number => (hostname === undefined ? 2 : hostname.startsWith('*') ? 1 : 0)
  return rank(a) - rank(b) || (b?.length ?? 0) - (a?.length ?? 0) || (a === b ? 0 : (a ?? '') < (b ?? '') ? -1 : 1)
}
