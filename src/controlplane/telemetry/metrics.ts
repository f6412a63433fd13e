// What a control plane tells Prometheus. The number of label sets is fixed: labels are words of our own, never names from outside.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

const secondsBuckets = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]

/** What is read when somebody asks. */
export interface ControlPlaneGauges {
  readonly nodes: () => number
  readonly gatewayPods: () => number
  readonly connections: () => number
  readonly behind: () => number
  readonly nacked: () => number
  readonly nackedResponses: () => number
  readonly workloads: () => number
  readonly services: () => number
  readonly policies: () => number
  readonly objectsRefused: () => number
  readonly podsConnected: () => number
  /** 1 for whoever does what only one replica may do. */
  readonly leads: () => number
  /** Seconds since 1970. */
  readonly caExpirySeconds: () => number
  readonly servingExpirySeconds: () => number
  readonly roots: () => number
}

const gaugeHelp: Readonly<Record<keyof ControlPlaneGauges, readonly [string, string]>> = {
  nodes: ['sidestep_controlplane_connected_nodes', 'Nodes with a stream'],
  gatewayPods: ['sidestep_controlplane_connected_gateway_pods', 'Pods of gateways with a stream'],
  connections: ['sidestep_controlplane_connections', 'TLS connections, handshakes included'],
  behind: ['sidestep_controlplane_nodes_behind', 'Connected nodes and pods of gateways that were not sent, or did not take, all there is'],
  nacked: ['sidestep_controlplane_resources_nacked', 'Resources that a connected node refuses at this moment'],
  nackedResponses: ['sidestep_controlplane_nacked_responses', 'Responses of which the nodes known now refused something'],
  workloads: ['sidestep_controlplane_workloads', 'Workloads published'],
  services: ['sidestep_controlplane_services', 'Services published'],
  policies: ['sidestep_controlplane_policies', 'Policies published'],
  objectsRefused: ['sidestep_controlplane_objects_refused', 'Objects that are not in force as written'],
  leads: ['sidestep_controlplane_leader', 'Whether this is the replica that writes status, makes what Gateways ask for and keeps the CA'],
  podsConnected: ['sidestep_controlplane_pods_connected', 'Whether somebody tells which pods run'],
  caExpirySeconds: ['sidestep_ca_expiry_timestamp_seconds', 'When the certificate that signs expires'],
  servingExpirySeconds: ['sidestep_controlplane_certificate_expiry_timestamp_seconds', 'When our own certificate expires'],
  roots: ['sidestep_ca_roots', 'Roots in the trust bundle'],
}

export class ControlPlaneMetrics {
  readonly registry = new Registry()
  readonly #pushes: Counter<'type'>
  readonly #pushedResources: Counter<'type'>
  readonly #pushedBytes: Counter<'type'>
  readonly #streamRefusals: Counter<'because'>
  readonly #certificates: Counter<'outcome'>
  readonly #handshakeErrors: Counter
  readonly #translate: Histogram

  constructor() {
    const registers = [this.registry]
    const counter = <T extends string>(name: string, help: string, ...labelNames: T[]): Counter<T> => new Counter({ name, help, labelNames, registers })
    this.#pushes = counter('sidestep_xds_pushes_total', 'Responses sent to nodes', 'type')
    this.#pushedResources = counter('sidestep_xds_pushed_resources_total', 'Resources sent to nodes, removals included', 'type')
    this.#pushedBytes = counter('sidestep_xds_pushed_bytes_total', 'Bytes of responses sent to nodes', 'type')
    this.#streamRefusals = counter('sidestep_xds_refused_streams_total', 'Streams that were not let in', 'because')
    this.#certificates = counter('sidestep_ca_requests_total', 'Requests for certificates: signed, or why not', 'outcome')
    this.#handshakeErrors = new Counter({ name: 'sidestep_controlplane_handshake_errors_total', help: 'TLS handshakes that failed', registers })
    this.#translate = new Histogram({
      name: 'sidestep_controlplane_translate_seconds', help: 'Time to translate changes', buckets: secondsBuckets, registers,
    })
  }

  pushed(push: { readonly type: string; readonly resources: number; readonly removed: number; readonly bytes: number }): void {
    const { type } = push
    this.#pushes.inc({ type })
    this.#pushedResources.inc({ type }, push.resources + push.removed)
    this.#pushedBytes.inc({ type }, push.bytes)
  }

  streamRefused(because: string): void {
    this.#streamRefusals.inc({ because })
  }

  certificate(outcome: string): void {
    this.#certificates.inc({ outcome })
  }

  handshakeError(): void {
    this.#handshakeErrors.inc()
  }

  translated(ms: number): void {
    this.#translate.observe(ms / 1000)
  }

  watch(read: ControlPlaneGauges): void {
    for (const key of Object.keys(gaugeHelp) as (keyof ControlPlaneGauges)[]) {
      const [name, help] = gaugeHelp[key]
      const gauge: Gauge = new Gauge({ name, help, registers: [], collect: () => gauge.set(read[key]()) })
      this.registry.registerMetric(gauge)
    }
  }
}
