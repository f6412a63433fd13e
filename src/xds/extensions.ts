// What our model has and istio.workload lacks, as extensions of its messages: to the wire and back. Extensions of others are
// passed over; one of ours that is broken is refused with its resource, because half of it could widen what is allowed.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf'
import type { EgressSetting } from '../model/egress.ts'
import type { Service, ServicePort, Workload } from '../model/workload.ts'
import { Egress, ServiceExtensionSchema, WorkloadExtensionSchema } from '../proto/sidestep_workload_pb.ts'
import type { Extension, ExtensionSchema } from '../proto/workload_pb.ts'
import { refuse } from './decoded.ts'

export const serviceExtensionName = 'sidestep.dev/service'
export const workloadExtensionName = 'sidestep.dev/workload'

const egressValues = {
  allow: Egress.ALLOW, audit: Egress.AUDIT, deny: Egress.DENY, unreadable: Egress.UNREADABLE,
} as const satisfies Readonly<Record<EgressSetting, Egress>>
// By enum number. A mode of a later version is one that cannot be read here.
const egressSettings: readonly (EgressSetting | undefined)[] = [undefined, 'allow', 'audit', 'deny', 'unreadable']

/** One label of a DNS name. */
const dnsLabel = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/

type ExtensionShape = MessageInitShape<typeof ExtensionSchema>

function typeUrl(schema: DescMessage): string {
  return `type.googleapis.com/${schema.typeName}`
}

function extension<T extends DescMessage>(name: string, schema: T, content: MessageInitShape<T>): ExtensionShape[] {
  return [{ name, config: { typeUrl: typeUrl(schema), value: toBinary(schema, create(schema, content)) } }]
}

/** Our extension of that name; undefined if there is none. */
function find<T extends DescMessage>(list: readonly Extension[], name: string, schema: T): MessageShape<T> | undefined {
  const found = list.filter((each) => each.name === name)
  const [first] = found
  if (!first) return undefined
  if (found.length > 1) refuse(`the extension ${name} is given twice`)
  if (first.config?.typeUrl !== typeUrl(schema)) refuse(`the extension ${name} holds ${JSON.stringify(first.config?.typeUrl ?? 'nothing')}`)
  try {
    return fromBinary(schema, first.config.value)
  } catch (error) {
    return refuse(`the extension ${name} cannot be read: ${error instanceof Error ? error.message : String(error)}`)
  }
}

export function serviceExtensions({ ports, sessionAffinity, isHeadless, udpPorts = [], waypointFailure }: Service): ExtensionShape[] {
  const isNamed = ports.some(({ name }) => name !== undefined)
  if (!isNamed && !sessionAffinity && !isHeadless && udpPorts.length === 0 && !waypointFailure) return []
  return extension(serviceExtensionName, ServiceExtensionSchema, {
    portNames: isNamed ? ports.map(({ name = '' }) => name) : [],
    ...(sessionAffinity ? { clientIpAffinity: { timeoutSeconds: sessionAffinity.timeoutSeconds } } : {}),
    headless: isHeadless ?? false,
    udpPorts: udpPorts.map((port) => ({ ...port })),
    waypointFailureOpen: waypointFailure === 'open',
  })
}

/** What the extension adds, and the ports with their names. */
export type ServiceFacts = Pick<Service, 'ports' | 'sessionAffinity' | 'isHeadless' | 'udpPorts' | 'waypointFailure'>

export function serviceFacts(list: readonly Extension[], ports: readonly ServicePort[]): ServiceFacts {
  const found = list.length === 0 ? undefined : find(list, serviceExtensionName, ServiceExtensionSchema)
  if (!found) return { ports }
  const { portNames, clientIpAffinity, headless, udpPorts, waypointFailureOpen } = found
  if (portNames.length > 0 && portNames.length !== ports.length) refuse(`${portNames.length} names for ${ports.length} ports`)
  return {
    ports: portNames.length === 0 ? ports : ports.map((port, i) => (portNames[i] ? { ...port, name: portNames[i] } : port)),
    ...(clientIpAffinity ? { sessionAffinity: { kind: 'clientIp', timeoutSeconds: clientIpAffinity.timeoutSeconds } } : {}),
    ...(headless ? { isHeadless: true } : {}),
    ...(udpPorts.length > 0 ? { udpPorts: udpPorts.map(({ name, port }) => ({ name, port: udpPort(port) })) } : {}),
    ...(waypointFailureOpen ? { waypointFailure: 'open' } : {}),
  }
}

function udpPort(port: number): number {
  return port > 65_535 ? refuse(`UDP port ${port} is not a port`) : port
}

export function workloadExtensions({ egress, endpointNames, waypointFailure, labels = noLabels }: Workload): ExtensionShape[] {
  const shownLabels = Object.entries(labels).sort(byName).slice(0, mostLabels)
  if (egress === undefined && !endpointNames?.size && !waypointFailure && shownLabels.length === 0) return []
  return extension(workloadExtensionName, WorkloadExtensionSchema, {
    egress: egress === undefined ? Egress.UNSPECIFIED : egressValues[egress],
    endpointNames: Object.fromEntries([...(endpointNames ?? [])].sort(byName)),
    waypointFailureOpen: waypointFailure === 'open',
    labels: Object.fromEntries(shownLabels),
  })
}

export function workloadFacts(list: readonly Extension[]): Pick<Workload, 'egress' | 'endpointNames' | 'waypointFailure' | 'labels'> {
  const found = list.length === 0 ? undefined : find(list, workloadExtensionName, WorkloadExtensionSchema)
  if (!found) return {}
  const egress = found.egress === Egress.UNSPECIFIED ? undefined : (egressSettings[found.egress] ?? 'unreadable')
  const names = Object.entries(found.endpointNames)
  for (const [service, label] of names) if (!dnsLabel.test(label)) refuse(`${JSON.stringify(label)} is no name for an endpoint of ${service}`)
  return {
    ...(egress ? { egress } : {}), ...(names.length > 0 ? { endpointNames: new Map(names) } : {}),
    ...(found.waypointFailureOpen ? { waypointFailure: 'open' } : {}),
    ...(Object.keys(found.labels).length > 0 ? { labels: sharedLabels(found.labels) } : {}),
  }
}

/** Kubernetes sets no limit; what a pod has beyond it is not told. */
const mostLabels = 63
const noLabels: Readonly<Record<string, string>> = Object.freeze({})
const byName = ([a]: readonly [string, string], [b]: readonly [string, string]): number => (a < b ? -1 : 1)

/** Pods of one deployment have the same labels: kept once. Cleared when full, which costs memory and nothing else. */
const labelSets = new Map<string, Readonly<Record<string, string>>>()
const mostLabelSets = 4_096

function sharedLabels(labels: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const entries = Object.entries(labels)
  if (entries.length > mostLabels) refuse(`${entries.length} labels`)
  const key = JSON.stringify(entries.sort(byName))
  let known = labelSets.get(key)
  if (!known) {
    if (labelSets.size >= mostLabelSets) labelSets.clear()
    labelSets.set(key, (known = Object.freeze(Object.fromEntries(entries))))
  }
  return known
}
