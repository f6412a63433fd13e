// Which match is tried first, as the Gateway API has it. For HTTP: an exact path, then the longest prefix, then (its choice is
// ours) a regular expression; then a method, more headers, more query parameters. For gRPC: more characters of the service, of
// the method, more headers. What is then equal is decided by age, by `namespace/name`, and within a route by the order of rules.
import type { ManifestObject } from '../../../model/manifest.ts'
import type { GrpcRouteMatch, HttpRouteMatch } from '../../../model/manifest-route.ts'

/** Compared number by number; the smaller goes first. */
export type Rank = readonly number[]

export function compareRanks(a: Rank, b: Rank): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}

/** `headers` and `query` are how many of them count: names that are given twice count once. */
export function httpRank({ path, method }: Pick<HttpRouteMatch, 'path' | 'method'>, headers: number, query: number): Rank {
  const kind = path.type === 'Exact' ? 0 : path.type === 'PathPrefix' ? 1 : 2
  return [kind, kind === 1 ? -plainPrefix(path.value).length : 0, method === undefined ? 1 : 0, -headers, -query]
}

export function grpcRank({ method }: Pick<GrpcRouteMatch, 'method'>, headers: number): Rank {
  const service = method?.type === 'Exact' ? plainService(method.service) : method?.service
  return [-(service?.length ?? 0), -(method?.method?.length ?? 0), -headers]
}

/** Protobuf's absolute names begin with a dot, which paths do not have. */
export function plainService(service: string | undefined): string | undefined {
  return service?.replace(/^\./, '')
}

/** A prefix means the same with and without a slash at its end. */
export function plainPrefix(value: string): string {
  return value.length > 1 && value.endsWith('/') ? value.slice(0, -1) : value
}

/** An object with what its place in the order goes by. */
export interface Aged {
  readonly object: ManifestObject
  readonly createdMs: number
  readonly name: string
}

export function aged(object: ManifestObject): Aged {
  return { object, createdMs: createdMs(object), name: fullName(object) }
}

/** The older first; files rarely say an age, and what does not comes last. Then by `namespace/name`, then by kind. */
export function compareAged(a: Aged, b: Aged): number {
  if (a.createdMs !== b.createdMs) return a.createdMs - b.createdMs
  if (a.name !== b.name) return a.name < b.name ? -1 : 1
  return a.object.kind === b.object.kind ? 0 : a.object.kind < b.object.kind ? -1 : 1
}

export function byAgeAndName(a: ManifestObject, b: ManifestObject): number {
  return compareAged(aged(a), aged(b))
}

function createdMs({ metadata }: ManifestObject): number {
  return metadata.creationTimestamp === undefined ? Infinity : Date.parse(metadata.creationTimestamp)
}

/** `namespace/name`, or the name alone of what has no namespace. */
export function fullName({ metadata }: ManifestObject): string {
  return 'namespace' in metadata ? `${metadata.namespace}/${metadata.name}` : metadata.name
}
