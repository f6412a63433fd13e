// The `baggage` header (W3C Baggage) as Istio's ztunnel fills it: what a workload says about itself, for telemetry. The peer
// writes it, so it is bounded here and never decides anything. Never throws; what is not understood is left out.
import type { WorkloadType } from '../model/workload.ts'

export interface Baggage {
  readonly cluster?: string
  readonly namespace?: string
  readonly workload?: { readonly type: WorkloadType; readonly name: string }
  readonly service?: string
  readonly revision?: string
  readonly region?: string
  readonly zone?: string
}

// Envoy and istio-proxy write well below 1 KiB; W3C asks for 8,192 bytes and 64 members at least.
const maxHeaderBytes = 8_192
const maxMembers = 64
const maxValueLength = 253

const workloadTypes = ['deployment', 'cronjob', 'pod', 'job'] as const satisfies readonly WorkloadType[]

const fieldOfKey = {
  'k8s.cluster.name': 'cluster',
  'k8s.namespace.name': 'namespace',
  'service.name': 'service',
  'service.version': 'revision',
  'cloud.region': 'region',
  'cloud.availability_zone': 'zone',
} as const

function isKnown(key: string): key is keyof typeof fieldOfKey {
  return Object.hasOwn(fieldOfKey, key)
}

/** Peers repeat themselves: each of their workloads says the same for all its connections. Bounded, since they write it. */
const parsed = new Map<string, Baggage>()
const mostParsed = 256
const longestParsed = 1_024

/** Unknown keys, values that are too long or wrongly encoded and all beyond the limits are left out; the first of a key counts. */
export function parseBaggage(header: string | undefined): Baggage {
  if (header === undefined || header.length > maxHeaderBytes) return {}
  const known = parsed.get(header)
  if (known) return known
  const found = parseMembers(header)
  if (header.length > longestParsed) return found
  if (parsed.size >= mostParsed) parsed.clear()
  parsed.set(header, found)
  return found
}

function parseMembers(header: string): Baggage {
  const found: { -readonly [K in keyof Baggage]: Baggage[K] } = {}
  for (const member of header.split(',', maxMembers)) {
    // Properties after ';' say nothing that we use.
    const [pair = ''] = member.split(';', 1)
    const equals = pair.indexOf('=')
    if (equals < 0) continue
    const key = pair.slice(0, equals).trim()
    const value = decodeValue(pair.slice(equals + 1).trim())
    if (value === undefined) continue
    if (isKnown(key)) found[fieldOfKey[key]] ??= value
    const type = workloadTypes.find((known) => key === `k8s.${known}.name`)
    if (type) found.workload ??= { type, name: value }
  }
  return found
}

function decodeValue(text: string): string | undefined {
  let value
  try {
    value = text.includes('%') ? decodeURIComponent(text) : text
  } catch {
    // Percent signs that do not encode UTF-8: not a value in the sense of the specification.
    return undefined
  }
  // Labels and log lines carry this: nothing unprintable.
  return value === '' || value.length > maxValueLength || /[\p{Cc}\p{Cs}\u2028\u2029]/u.test(value) ? undefined : value
}

const formatted = new WeakMap<Baggage, string>()

/** Keys in ztunnel's order; what is missing or cannot be carried is left out. '' where nothing is known. Once for each object. */
export function formatBaggage(baggage: Baggage): string {
  const known = formatted.get(baggage)
  if (known !== undefined) return known
  const text = formatMembers(baggage)
  formatted.set(baggage, text)
  return text
}

function formatMembers(baggage: Baggage): string {
  const members: string[] = []
  const add = (key: string, value: string | undefined): void => {
    if (value !== undefined && decodeValue(encodeURIComponent(value.toWellFormed())) === value) members.push(`${key}=${encodeValue(value)}`)
  }
  add('k8s.cluster.name', baggage.cluster)
  add('k8s.namespace.name', baggage.namespace)
  if (baggage.workload) add(`k8s.${baggage.workload.type}.name`, baggage.workload.name)
  add('service.name', baggage.service)
  add('service.version', baggage.revision)
  add('cloud.region', baggage.region)
  add('cloud.availability_zone', baggage.zone)
  return members.join(',')
}

/** Colons and slashes are baggage octets; only the others need encoding. */
function encodeValue(value: string): string {
  return encodeURIComponent(value).replace(/%(3A|2F|40)/g, (escaped) => decodeURIComponent(escaped))
}
