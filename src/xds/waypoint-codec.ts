// A waypoint's resources to the wire and back: sidestep.waypoint.v1.Resource with JSON inside. Versions of resources are hashes of
// the bytes, so maps are written in the order of their keys; fields stay in the order in which the translation makes them, which
// is always the same. Decoding never throws; reasons name the place and never show a value, because secrets travel this way too.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { MeshError } from '../core/errors.ts'
import type { DestinationPolicy } from '../model/route.ts'
import type { WaypointResource } from '../model/waypoint-config.ts'
import { ResourceSchema } from '../proto/sidestep_waypoint_pb.ts'
import { decoding, refuse } from './decoded.ts'
import type { Decoded } from './decoded.ts'
import { contentSchemas } from './waypoint-schema.ts'

/** Routes of ten thousand rules are some MiB; beyond this nobody wrote them. */
const maxContentBytes = 64 * 1024 * 1024

/** Bytes of the sidestep.waypoint.v1.Resource. Throws BAD_MESSAGE for one that is too large. */
export function encodeWaypointResource({ kind, key, ...fields }: WaypointResource): Uint8Array {
  const plain = 'destination' in fields ? { destination: destinationEntries(fields.destination) } : fields
  const content = Buffer.from(JSON.stringify(plain))
  if (content.length > maxContentBytes) {
    throw new MeshError('BAD_MESSAGE', `${kind} ${key} has ${content.length} bytes, more than ${maxContentBytes}`)
  }
  return toBinary(ResourceSchema, create(ResourceSchema, { kind, key, content }))
}

function destinationEntries({ ports, subsets, ...rest }: DestinationPolicy): object {
  return {
    ...rest,
    ports: [...ports].sort(([a], [b]) => a - b),
    subsets: [...subsets].sort(byName).map(([name, { labels, policy }]) => [name, { labels: Object.entries(labels).sort(byName), policy }]),
  }
}

function byName([a]: readonly [string, ...unknown[]], [b]: readonly [string, ...unknown[]]): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** The resource in a sidestep.waypoint.v1.Resource. */
export function decodeWaypointResource(bytes: Uint8Array): Decoded<WaypointResource> {
  return decoding(() => {
    const { kind, key, content, $unknown: [unknown] = [] } = fromBinary(ResourceSchema, bytes)
    if (unknown) refuse(`field ${unknown.no} of a resource is not known here`)
    if (content.length > maxContentBytes) refuse(`it has ${content.length} bytes, more than ${maxContentBytes}`)
    const json = parse(content)
    switch (kind) {
      case 'routes':
        return { kind, key, ...checked(kind, json) }
      case 'listener':
        return { kind, key, ...checked(kind, json) }
      case 'destination':
        return { kind, key, ...checked(kind, json) }
      case 'filter':
        return { kind, key, ...checked(kind, json) }
      case 'security':
        return { kind, key, ...checked(kind, json) }
      case 'provider':
        return { kind, key, ...checked(kind, json) }
      case 'secret':
        return { kind, key, ...checked(kind, json) }
      default:
        return refuse(`the kind ${JSON.stringify(kind.slice(0, 100))} is not known here`)
    }
  })
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function parse(content: Uint8Array): unknown {
  try {
    return JSON.parse(utf8.decode(content))
  } catch {
    // The parser's own words quote what it read, which may be a key.
    return refuse('its content is not JSON')
  }
}

type Contents = { readonly [Kind in keyof typeof contentSchemas]: ReturnType<(typeof contentSchemas)[Kind]['parse']> }

function checked<Kind extends keyof Contents>(kind: Kind, json: unknown): Contents[Kind] {
  const parsed = contentSchemas[kind].safeParse(json)
  if (parsed.success) return parsed.data as Contents[Kind]
  const [first] = parsed.error.issues
  const place = (first?.path ?? []).map(String).join('.').slice(0, 200)
  return refuse(`${place === '' ? 'content' : place}: ${(first?.message ?? 'unknown shape').slice(0, 200)}`)
}
