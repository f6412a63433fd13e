// The redirection of one ztunnel: its programs loaded, attached and pinned, and the pods that are enrolled in its maps.
// Everything is pinned, so it stays in force when the process dies and a successor takes it over: links get the new
// programs atomically, maps are kept. Must never leave a pod half enrolled without saying so: a step that fails throws.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { bytesToIp, ipToBytes, isIpv6Address } from '../core/address.ts'
import type { ClientAddr, OriginalDst, SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { findCgroup2 } from './cgroup.ts'
import * as layout from './generated/layout.ts'
import { cgroupHooks, fenceHook, fenceLink, hookLink, lookupHook, lookupLink, objectFiles } from './hooks.ts'
import type { CgroupHook } from './hooks.ts'
import { Maps } from './maps.ts'
import { buildDirectory, native } from './native.ts'
import type { OwnedFd } from './native.ts'
import type { Netns } from './netns.ts'
import { allMaps, isMapName, pinMaps, pinnedMaps } from './pinned-maps.ts'
import { Pins } from './pins.ts'
import type { SocketMark } from './sockets.ts'

/** SO_MARK of deliveries and the table their answers are routed by; only inside pods' namespaces. */
const returnPath = { mark: 0x51de, table: 20_958, priority: 20_958 } as const

/** Source ports of deliveries. The client's own connections use the kernel's default range above, so that a delivery
 *  under the client's address never has the four-tuple of a live connection of that client. */
export const deliveryPorts = [1024, 32_767] as const

/** One for each server that a socket asks at the same time. */
export const dnsPorts = [layout.port.dns, layout.port.dnsSecond, layout.port.dnsThird] as const

const noAddress = new Uint8Array(16)
const noSocketState = { destination: noAddress, port: 0, dnsServers: 0, dnsNext: 0 } as const

export interface RedirectionOptions {
  /** Names the pins; one per ztunnel on a kernel. A DNS label. */
  readonly instance: string
  /** The node's namespace, in which pods' veths end and from which the kubelet probes. */
  readonly nodeNetns: Netns
  /** cgroup id of the kubelet; 0 (any process of the node's namespace) unless told. */
  readonly kubeletCgroupId?: bigint
  /** Receives the verifier's log if a program is refused. */
  readonly verifierLog: string
  readonly logger: Logger
}

export type Counters = Readonly<Record<layout.Reason, number>>

export class Redirection {
  readonly pins: Pins
  readonly #maps: Maps
  readonly #programs: ReadonlyMap<string, OwnedFd>
  readonly #options: RedirectionOptions

  private constructor(options: RedirectionOptions, pins: Pins, maps: Maps, programs: ReadonlyMap<string, OwnedFd>) {
    this.#options = options
    this.pins = pins
    this.#maps = maps
    this.#programs = programs
  }

  /**
   * Loads, attaches and pins; or takes over what an earlier process pinned. Throws LAYOUT_MISMATCH where that was made by
   * another version, VERIFIER_REJECTED, CGROUP2_MISSING or SYSCALL_FAILED.
   */
  static open(options: RedirectionOptions): Redirection {
    const pins = new Pins(options.instance)
    mkdirSync(pins.directory, { recursive: true, mode: 0o700 })
    const shared = pinnedMaps(pins)
    const programs = new Map<string, OwnedFd>()
    for (const name of objectFiles) {
      const loaded = native().loadObject(join(buildDirectory, 'bpf', `${name}.bpf.o`), shared, options.verifierLog)
      for (const [map, fd] of Object.entries(loaded.maps)) {
        if (map in shared || !isMapName(map)) fd.close()
        else shared[map] = fd
      }
      for (const [program, fd] of Object.entries(loaded.programs)) programs.set(program, fd)
    }
    const maps = new Maps(allMaps(shared))
    pinMaps(pins, maps)
    const redirection = new Redirection(options, pins, maps, programs)
    redirection.#attach()
    return redirection
  }

  /** Removes every hook and map of an instance, whoever made them. */
  static remove(instance: string): void {
    new Pins(instance).removeAll()
  }

  #attach(): void {
    this.#maps.nodes.set(this.#options.nodeNetns.cookie, { cgroupId: this.#options.kubeletCgroupId ?? 0n })
    this.#attachHooks(cgroupHooks)
  }

  #attachHooks(hooks: readonly CgroupHook[]): void {
    const cgroup = native().openPath(findCgroup2())
    try {
      for (const { program, attachType } of hooks) this.#link(hookLink(program), program, () => [cgroup, attachType])
    } finally {
      cgroup.close()
    }
  }

  /** Puts back what somebody took off or unpinned since; what is there stays whose it is, a successor's too. */
  #repairHooks(): void {
    const missing = cgroupHooks.filter(({ program }) => !this.pins.isLinkInForce(hookLink(program)))
    if (missing.length === 0) return
    this.#options.logger.warn({ hooks: missing.map(({ program }) => program).join(' ') }, 'hooks were taken off: attaching them again')
    this.#attachHooks(missing)
  }

  /** Updates the pinned link of that name to our program, or makes and pins it, also where the old one was taken off. */
  #link(name: string, program: string, target: () => readonly [OwnedFd | number, number]): void {
    const fd = this.#program(program)
    if (this.#updateLink(name, fd)) return
    const link = native().linkCreate(fd, ...target())
    this.pins.pin(link, name)
    link.close()
  }

  /** False where there is none, or one that is attached to nothing, which is then unpinned. */
  #updateLink(name: string, program: OwnedFd): boolean {
    const pinned = this.pins.get(name)
    if (!pinned) return false
    try {
      if (native().linkInfo(pinned).isAttached) {
        native().linkUpdate(pinned, program)
        return true
      }
    } finally {
      pinned.close()
    }
    this.pins.remove(name)
    return false
  }

  #program(name: string): OwnedFd {
    const fd = this.#programs.get(name)
    if (!fd) throw new MeshError('KERNEL_UNSUPPORTED', `the program ${name} is not in the loaded objects`)
    return fd
  }

  /**
   * Puts a pod's redirection in force; idempotent. Register its listeners first: from here on, new connections go to
   * them. Connections that stand already are left alone. Said again, it puts back whatever somebody else undid meanwhile.
   */
  async enrol(pod: PodEnrolment, netns: Netns): Promise<void> {
    this.#repairHooks()
    await native().setReturnPath(netns.fd, { ...returnPath, install: true })
    const ips = pod.ips.map((ip) => ({ ip, bytes: ipToBytes(ip) ?? noAddress }))
    const previous = this.#maps.pods.get(netns.cookie)
    this.#setProbePorts(netns.cookie, pod.probePorts)
    this.#maps.pods.set(netns.cookie, {
      ip4: ips.find(({ ip }) => !isIpv6Address(ip))?.bytes ?? noAddress,
      ip6: ips.find(({ ip }) => isIpv6Address(ip))?.bytes ?? noAddress,
      flags: (pod.failureMode === 'open' ? layout.podFlag.open : 0) | (pod.dns ? layout.podFlag.dns : 0),
    })
    for (const { bytes } of ips) this.#maps.podAddresses.set(bytes, netns.cookie)
    if (previous) this.#forgetAddresses(previous, netns.cookie, ips.map(({ bytes }) => bytes))
    this.#link(lookupLink(netns.cookie), lookupHook.program, () => [netns.fd, lookupHook.attachType])
    await this.#fence(netns)
  }

  /** A fence on the node's end of each veth that leads out of the pod. */
  async #fence(netns: Netns): Promise<void> {
    const veths = await netns.veths()
    if (veths.length === 0) this.#options.logger.warn({ 'pod.cookie': String(netns.cookie) }, 'pod has no veth; its fence is missing')
    const program = this.#program(fenceHook.program)
    for (const { peerIndex } of veths) {
      const name = fenceLink(netns.cookie, peerIndex)
      this.#maps.fences.set(peerIndex, netns.cookie)
      if (this.#updateLink(name, program)) continue
      const link = await native().linkCreateIn(this.#options.nodeNetns.fd, program, peerIndex, fenceHook.attachType)
      this.pins.pin(link, name)
      link.close()
    }
  }

  #setProbePorts(cookie: bigint, ports: readonly number[]): void {
    for (const key of this.#maps.probePorts.keys()) {
      if (key.netnsCookie === cookie && !ports.includes(key.port)) this.#maps.probePorts.delete(key)
    }
    for (const port of ports) this.#maps.probePorts.set({ netnsCookie: cookie, port }, 1)
  }

  #forgetAddresses(pod: layout.Pod, cookie: bigint, keep: readonly Uint8Array[]): void {
    for (const address of [pod.ip4, pod.ip6]) {
      if (address.every((byte) => byte === 0) || keep.some((kept) => Buffer.compare(kept, address) === 0)) continue
      if (this.#maps.podAddresses.get(address) === cookie) this.#maps.podAddresses.delete(address)
    }
  }

  /** Ends a pod's redirection, whether or not its namespace still exists. Live connections go on. */
  unenrol(cookie: bigint): void {
    this.pins.remove(lookupLink(cookie))
    for (const [ifindex, owner] of this.#maps.fences.entries()) {
      if (owner !== cookie) continue
      this.pins.remove(fenceLink(cookie, ifindex))
      this.#maps.fences.delete(ifindex)
    }
    const pod = this.#maps.pods.get(cookie)
    this.#maps.pods.delete(cookie)
    if (pod) this.#forgetAddresses(pod, cookie, [])
    this.#setProbePorts(cookie, [])
    for (const kind of Object.keys(layout.listenerKind) as layout.ListenerKind[]) this.withdrawListener(cookie, kind)
  }

  /** Takes back the routing that deliveries needed; only once the pod's last delivered connection has ended. */
  async removeReturnPath(netns: Netns): Promise<void> {
    await removeReturnPath(netns)
  }

  /** Cookies of the pods in force, including those that an earlier process enrolled. */
  enrolled(): bigint[] {
    return this.#maps.pods.keys()
  }

  /** New connections of that kind go to this listening socket from now on; it leaves the map when it closes. */
  registerListener(cookie: bigint, kind: layout.ListenerKind, socket: number): void {
    this.#maps.listeners.set({ netnsCookie: cookie, kind: layout.listenerKind[kind] }, BigInt(socket))
  }

  /** The kernel's cookie of the socket that takes them, ours or a successor's; it may have been destroyed. Undefined for none. */
  listenerOf(cookie: bigint, kind: layout.ListenerKind): bigint | undefined {
    return this.#maps.listeners.get({ netnsCookie: cookie, kind: layout.listenerKind[kind] })
  }

  withdrawListener(cookie: bigint, kind: layout.ListenerKind): void {
    this.#maps.listeners.delete({ netnsCookie: cookie, kind: layout.listenerKind[kind] })
  }

  /** Where a redirected connection was meant to go, by its source as accepted; undefined is to be refused. Read once. */
  takeOriginalDestination(cookie: bigint, client: ClientAddr): OriginalDst | undefined {
    const found = this.#maps.handoffs.take(handoffKey(cookie, client, 6))
    return found && { ip: bytesToIp(found.address), port: found.port }
  }

  /** Whether the address is the captured pod's own. */
  isPodAddress(cookie: bigint, ip: string): boolean {
    const address = ipToBytes(ip)
    return address !== undefined && this.#maps.podAddresses.get(address) === cookie
  }

  /**
   * The DNS server that a captured UDP socket asked on the port of that slot (dnsPorts); stays, since the socket may ask again.
   * Good only for a client that isPodAddress(): strangers may send from the same port.
   */
  originalDnsServer(cookie: bigint, client: ClientAddr, slot: number): OriginalDst | undefined {
    const found = this.#maps.handoffs.get(handoffKey(cookie, client, 17, slot))
    return found && { ip: bytesToIp(found.address), port: found.port }
  }

  /** For sockets that must not be redirected: the ztunnel's own towards the outside. */
  bypassMark(): SocketMark {
    return { storageMap: this.#maps.sockets, storageValue: layout.writeSocketState({ ...noSocketState, kind: layout.socketKind.bypass }) }
  }

  /** For sockets to the pod's own application, which sk_lookup must let in. */
  deliveryMark(destination: SocketAddr): SocketMark & { readonly mark: number } {
    const state = { ...noSocketState, kind: layout.socketKind.delivery, destination: ipToBytes(destination.ip) ?? noAddress, port: destination.port }
    return { storageMap: this.#maps.sockets, storageValue: layout.writeSocketState(state), mark: returnPath.mark }
  }

  /** All counters since the maps were made. */
  counters(): Counters {
    const entries = Object.entries(layout.reason).filter(([name]) => name !== 'none' && name !== 'count')
    return Object.fromEntries(entries.map(([name, key]) => [name, Number(this.#maps.counters.get(key) ?? 0n)])) as Counters
  }

  /** The descriptor of a loaded program, for BPF_PROG_TEST_RUN. */
  programForTest(name: string): OwnedFd {
    return this.#program(name)
  }

  get maps(): Maps {
    return this.#maps
  }

  /** Closes our descriptors. What is pinned stays in force. */
  close(): void {
    for (const fd of this.#programs.values()) fd.close()
    this.#maps.close()
  }
}

/** As Redirection's, of a pod whose ztunnel is gone for good. */
export async function removeReturnPath(netns: Netns): Promise<void> {
  await native().setReturnPath(netns.fd, { ...returnPath, install: false })
}

function handoffKey(cookie: bigint, client: ClientAddr, protocol: number, dnsSlot = 0): layout.HandoffKey {
  return { netnsCookie: cookie, port: client.port, family: isIpv6Address(client.ip) ? 6 : 4, protocol, dnsSlot }
}
