// The maps of bpf/include/maps.h by name, with their codecs.
import { BpfMap, bytesCodec, perCpuSumCodec, u32Codec, u64Codec, u8Codec } from './bpf-map.ts'
import type { Codec } from './bpf-map.ts'
import * as layout from './generated/layout.ts'
import type { OwnedFd } from './native.ts'

const podCodec: Codec<layout.Pod> = { write: layout.writePod, read: layout.readPod }
const listenerKeyCodec: Codec<layout.ListenerKey> = { write: layout.writeListenerKey, read: layout.readListenerKey }
const handoffKeyCodec: Codec<layout.HandoffKey> = { write: layout.writeHandoffKey, read: layout.readHandoffKey }
const endpointCodec: Codec<layout.Endpoint> = { write: layout.writeEndpoint, read: layout.readEndpoint }
const flowKeyCodec: Codec<layout.FlowKey> = { write: layout.writeFlowKey, read: layout.readFlowKey }
const flowCodec: Codec<layout.Flow> = { write: layout.writeFlow, read: layout.readFlow }
const probeKeyCodec: Codec<layout.ProbeKey> = { write: layout.writeProbeKey, read: layout.readProbeKey }
const nodeCodec: Codec<layout.Node> = { write: layout.writeNode, read: layout.readNode }
const metaCodec: Codec<layout.Meta> = { write: layout.writeMeta, read: layout.readMeta }

export const mapNames = [
  'pods', 'pod_addresses', 'listeners', 'sockets', 'handoffs', 'flows', 'probe_ports', 'nodes', 'fences', 'counters', 'events', 'meta',
] as const
export type MapName = (typeof mapNames)[number]

/** All maps of one instance; closing them leaves the pins. */
export class Maps {
  readonly pods: BpfMap<bigint, layout.Pod>
  readonly podAddresses: BpfMap<Uint8Array, bigint>
  readonly listeners: BpfMap<layout.ListenerKey, bigint>
  readonly handoffs: BpfMap<layout.HandoffKey, layout.Endpoint>
  readonly flows: BpfMap<layout.FlowKey, layout.Flow>
  readonly probePorts: BpfMap<layout.ProbeKey, number>
  readonly nodes: BpfMap<bigint, layout.Node>
  readonly fences: BpfMap<number, bigint>
  readonly counters: BpfMap<number, bigint>
  readonly meta: BpfMap<number, layout.Meta>
  readonly sockets: OwnedFd
  readonly events: OwnedFd
  readonly #fds: Readonly<Record<MapName, OwnedFd>>

  constructor(fds: Readonly<Record<MapName, OwnedFd>>) {
    this.#fds = fds
    this.pods = new BpfMap(fds.pods, u64Codec, podCodec)
    this.podAddresses = new BpfMap(fds.pod_addresses, bytesCodec, u64Codec)
    this.listeners = new BpfMap(fds.listeners, listenerKeyCodec, u64Codec)
    this.handoffs = new BpfMap(fds.handoffs, handoffKeyCodec, endpointCodec)
    this.flows = new BpfMap(fds.flows, flowKeyCodec, flowCodec)
    this.probePorts = new BpfMap(fds.probe_ports, probeKeyCodec, u8Codec)
    this.nodes = new BpfMap(fds.nodes, u64Codec, nodeCodec)
    this.fences = new BpfMap(fds.fences, u32Codec, u64Codec)
    this.counters = new BpfMap(fds.counters, u32Codec, perCpuSumCodec)
    this.meta = new BpfMap(fds.meta, u32Codec, metaCodec)
    this.sockets = fds.sockets
    this.events = fds.events
  }

  get fds(): Readonly<Record<MapName, OwnedFd>> {
    return this.#fds
  }

  close(): void {
    for (const fd of Object.values(this.#fds)) fd.close()
  }
}
