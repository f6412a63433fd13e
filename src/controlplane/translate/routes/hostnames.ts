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

/** What a route has of a listener's hosts; empty if nothing. `[undefined]` is every host. */
export function effectiveHostnames(listener: string | undefined, route: readonly string[]): readonly (string | undefined)[] {
  if (route.length === 0) return [listener]
  const found = route.map((hostname) => intersection(listener, hostname)).filter((hostname) => hostname !== false)
  return [...new Set(found)]
}

/** Negative if `a` is more specific: exact names first, then the longer. */
export function bySpecificity(a: string | undefined, b: string | undefined): number {
  const rank = (hostname: string | undefined): number => (hostname === undefined ? 2 : hostname.startsWith('*') ? 1 : 0)
  return rank(a) - rank(b) || (b?.length ?? 0) - (a?.length ?? 0) || (a === b ? 0 : (a ?? '') < (b ?? '') ? -1 : 1)
}
