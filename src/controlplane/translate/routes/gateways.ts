// Gateways of our classes: which of their listeners are in force, and who may attach what to them. A listener that cannot be told
// from another one is not served, and neither is the other: guessing would hand one owner's hosts to another.
import { gatewayRole, type GatewayRole } from '../../../model/gateway-labels.ts'
import {
  gatewayGroup, type FrontendTls, type ListenerSpec, type NamespacesFrom, type SecretReference,
} from '../../../model/manifest-gateway.ts'
import { objectKey, type GatewayManifest, type RouteManifest } from '../../../model/manifest.ts'
import type { GatewayListener } from '../../../model/route.ts'
import type { TranslateSettings } from '../settings.ts'
import type { Findings } from './findings.ts'
import { selectsLabels, type World } from './world.ts'

/** What a Gateway of a class is here; undefined if somebody else serves the class. */
export function roleOf({ spec: { gatewayClassName } }: GatewayManifest, world: Pick<World, 'class'>): GatewayRole | undefined {
  return roleOfClass(gatewayClassName, world)
}

export function roleOfClass(name: string, world: Pick<World, 'class'>): GatewayRole | undefined {
  return gatewayRole(name, world.class(name)?.spec.controllerName)
}

export interface ServedListener {
  readonly gateway: GatewayManifest
  readonly spec: ListenerSpec
  /** Kinds of routes that it takes. */
  readonly kinds: ReadonlySet<RouteManifest['kind']>
  /** Absent where it is not in force: no route attaches to it. */
  readonly listener?: GatewayListener
}

const protocols: Readonly<Record<string, GatewayListener['protocol']>> = { HTTP: 'http', HTTPS: 'https', TLS: 'tls', TCP: 'tcp' }

function kindsOf({ protocol, tls }: ListenerSpec): readonly RouteManifest['kind'][] {
  if (protocol === 'HTTP' || protocol === 'HTTPS') return ['HTTPRoute', 'GRPCRoute']
  if (protocol === 'TCP') return ['TCPRoute']
  if (protocol === 'TLS') return tls?.mode === 'Terminate' ? ['TLSRoute', 'TCPRoute'] : ['TLSRoute']
  return []
}

/** Listeners of all Gateways of the class sidestep-ingress, by object key of the Gateway, in the order of its spec. */
export function serveGateways(world: World, findings: Findings): ReadonlyMap<string, readonly ServedListener[]> {
  const served = new Map<string, readonly ServedListener[]>()
  for (const gateway of world.gateways) {
    const role = roleOf(gateway, world)
    if (role === undefined) findings.note(objectKey(gateway), `the class ${gateway.spec.gatewayClassName} is served by somebody else`)
    else remarkUnsupported(gateway, findings, world.settings)
    if (role === 'ingress') served.set(objectKey(gateway), gateway.spec.listeners.map((spec) => serve(gateway, spec, world, findings)))
    if (role === 'waypoint') {
      for (const { name, protocol } of gateway.spec.listeners) {
        findings.listener(objectKey(gateway), name, [])
        if (protocol !== 'HBONE') findings.refuseListener(objectKey(gateway), name, 'UnsupportedProtocol', `a waypoint listens for HBONE, not ${protocol}`)
      }
    }
  }
  return served
}

function remarkUnsupported(gateway: GatewayManifest, findings: Findings, { readsParameters }: Pick<TranslateSettings, 'readsParameters'>): void {
  const { addresses, allowedListeners, infrastructure, tls, defaultScope } = gateway.spec
  const key = objectKey(gateway)
  if (addresses.length > 0) findings.note(key, 'spec.addresses is not honoured: the address is that of its pods')
  if (infrastructure?.parametersRef && !readsParameters) findings.problem(key, 'spec.infrastructure.parametersRef counts on Kubernetes only')
  if (allowedListeners) findings.note(key, 'spec.allowedListeners is not honoured: ListenerSets are not read')
  if (tls?.backend) findings.problem(key, 'spec.tls.backend is not supported: a DestinationRule says which certificate backends see')
  if (defaultScope === 'All') findings.note(key, 'spec.defaultScope is not honoured: routes name their parents')
}

function serve(gateway: GatewayManifest, spec: ListenerSpec, world: World, findings: Findings): ServedListener {
  const object = objectKey(gateway)
  const natural = kindsOf(spec)
  const asked = spec.allowedRoutes.kinds
  const kinds = new Set(natural.filter((kind) => asked.length === 0 || asked.some((each) => each.group === gatewayGroup && each.kind === kind)))
  findings.listener(object, spec.name, kinds)
  for (const each of asked) {
    if (each.group !== gatewayGroup || !natural.some((kind) => kind === each.kind)) {
      findings.unresolved(object, spec.name, 'InvalidRouteKinds', `routes of the kind ${each.kind} cannot attach to the protocol ${spec.protocol}`)
    }
  }
  const refuse = (reason: string, why: string, isConflict = false): ServedListener => {
    findings.refuseListener(object, spec.name, reason, why, isConflict)
    return { gateway, spec, kinds }
  }
  const protocol = Object.hasOwn(protocols, spec.protocol) ? protocols[spec.protocol] : undefined
  if (!protocol) return refuse('UnsupportedProtocol', `the protocol ${spec.protocol} is not supported`)
  const rival = gateway.spec.listeners.find((other) => other !== spec && conflicts(spec, other))
  if (rival) return refuse(rival.protocol === spec.protocol ? 'HostnameConflict' : 'ProtocolConflict', `cannot be told from the listener ${rival.name}`, true)
  const { namespace, name } = gateway.metadata
  const tls = spec.tls && {
    mode: spec.tls.mode === 'Terminate' ? 'terminate' as const : 'passthrough' as const,
    certificates: certificatesOf(gateway, spec, world, findings),
  }
  const client = protocol === 'https' ? clientValidation(gateway, spec, world, findings) : undefined
  const listener: GatewayListener = {
    key: listenerKey(gateway, spec),
    gateway: { namespace, name },
    name: spec.name,
    port: spec.port,
    protocol,
    ...(spec.hostname === undefined ? {} : { hostname: spec.hostname }),
    ...(tls ? { tls } : {}),
    ...(client ? { clientCertificates: client } : {}),
  }
  return { gateway, spec, kinds, listener }
}

export function listenerKey(gateway: GatewayManifest, { name }: ListenerSpec): string {
  return `${objectKey(gateway)}/${name}`
}

/** HTTP, HTTPS and TLS differ by hostname, and TCP by nothing but the port; TLS and HTTPS can share one, told apart by SNI. */
function conflicts(a: ListenerSpec, b: ListenerSpec): boolean {
  if (a.port !== b.port) return false
  const isTls = (spec: ListenerSpec): boolean => spec.protocol === 'HTTPS' || spec.protocol === 'TLS'
  if (a.protocol === b.protocol || (isTls(a) && isTls(b))) return a.protocol === 'TCP' || a.hostname === b.hostname
  return true
}

function certificatesOf(
  gateway: GatewayManifest, { name, tls }: ListenerSpec, world: World, findings: Findings,
): readonly string[] {
  if (tls?.mode !== 'Terminate') return []
  if (Object.keys(tls.options).length > 0) findings.note(objectKey(gateway), `listener ${name}: tls.options are not honoured`)
  return tls.certificateRefs.flatMap((ref: SecretReference) => {
    const namespace = ref.namespace ?? gateway.metadata.namespace
    if (ref.group !== '' || ref.kind !== 'Secret') {
      findings.unresolved(objectKey(gateway), name, 'InvalidCertificateRef', `a certificate is in a Secret, not in a ${ref.kind}${ref.group === '' ? '' : ` of ${ref.group}`}`)
      return []
    }
    const mayName = namespace === gateway.metadata.namespace
      || world.mayName({ group: gatewayGroup, kind: 'Gateway', namespace: gateway.metadata.namespace }, { group: '', kind: 'Secret', namespace, name: ref.name })
    if (!mayName) findings.unresolved(objectKey(gateway), name, 'RefNotPermitted', `no ReferenceGrant lets it use the Secret ${namespace}/${ref.name}`)
    return mayName ? [`${namespace}/${ref.name}`] : []
  })
}

function clientValidation(
  gateway: GatewayManifest, { name: listener, port }: ListenerSpec, world: World, findings: Findings,
): GatewayListener['clientCertificates'] {
  const frontend = gateway.spec.tls?.frontend
  const chosen: FrontendTls | undefined = frontend?.perPort.find((each) => each.port === port)?.tls ?? frontend?.default
  const validation = chosen?.validation
  if (!validation) return undefined
  const own = gateway.metadata.namespace
  const authorities = validation.caCertificateRefs.flatMap(({ group, kind, name, namespace = own }) => {
    if (group !== '' || (kind !== 'ConfigMap' && kind !== 'Secret')) {
      findings.unresolved(objectKey(gateway), listener, 'InvalidCACertificateKind', `tls.frontend: authorities are in a ConfigMap or Secret, not in a ${kind}`)
      return []
    }
    const mayName = namespace === own || world.mayName({ group: gatewayGroup, kind: 'Gateway', namespace: own }, { group: '', kind, namespace, name })
    if (!mayName) findings.unresolved(objectKey(gateway), listener, 'RefNotPermitted', `tls.frontend: no ReferenceGrant lets it use the ${kind} ${namespace}/${name}`)
    return mayName ? [`${kind} ${namespace}/${name}`] : []
  })
  // Without a usable authority nobody can show a certificate that one signed: closed, not open.
  return { authorities, isOptional: validation.mode === 'AllowInsecureFallback' }
}

/** Whether a listener (or a waypoint) of a namespace opens itself to another. */
export function allowsNamespace(allowed: NamespacesFrom, own: string, other: string, world: Pick<World, 'namespaceLabels'>): boolean {
  switch (allowed.from) {
    case 'All': return true
    case 'Same': return own === other
    case 'None': return false
    case 'Selector': return allowed.selector !== undefined && selectsLabels(allowed.selector, world.namespaceLabels(other))
  }
}
