// What is really in force of an instance, read from what it pinned, by somebody who is not its ztunnel: the node agent's audit. Changes
// nothing, and believes no process.
import { ipToBytes, isIpv6Address } from '../core/address.ts'
import type { PodEnrolment } from '../model/enrolment.ts'
import { podFlag } from './generated/layout.ts'
import * as layout from './generated/layout.ts'
import { cgroupHooks, fenceLink, hookLink, lookupLink } from './hooks.ts'
import { Maps } from './maps.ts'
import { allMaps, pinnedMaps } from './pinned-maps.ts'
import { Pins } from './pins.ts'

/** What is not as it should be; each is also a label of metrics. */
export const driftKinds = ['instance', 'hook', 'podEntry', 'address', 'probePort', 'listener', 'lookup', 'fence'] as const
export type DriftKind = (typeof driftKinds)[number]

export interface Drift {
  readonly kind: DriftKind
  /** A sentence without its full stop. */
  readonly because: string
}

export interface ExpectedCapture {
  /** What its ztunnel should listen for. */
  readonly listeners: readonly layout.ListenerKind[]
  /** The sockets that listen for TCP in the pod's namespace, by the kernel's cookies. */
  readonly sockets: ReadonlySet<bigint>
  /** The node's ends of the pod's veths, by interface index. */
  readonly fences: readonly number[]
}

const noAddress = new Uint8Array(16)

export class CaptureView implements Disposable {
  readonly #pins: Pins
  readonly #maps: Maps
  readonly #probePorts = new Map<bigint, Set<number>>()

  private constructor(pins: Pins, maps: Maps) {
    this.#pins = pins
    this.#maps = maps
    for (const { netnsCookie, port } of maps.probePorts.keys()) {
      const ports = this.#probePorts.get(netnsCookie) ?? new Set()
      this.#probePorts.set(netnsCookie, ports.add(port))
    }
  }

  /**
   * A look at this moment; close it soon. Undefined where nothing, or only a part, is pinned under that name. Throws LAYOUT_MISMATCH
   * where another version did, and SYSCALL_FAILED.
   */
  static open(instance: string): CaptureView | undefined {
    const pins = new Pins(instance)
    const fds = pinnedMaps(pins)
    try {
      return new CaptureView(pins, new Maps(allMaps(fds)))
    } catch {
      // A map is not pinned: what is in force then is unknown, and a start of the ztunnel makes it anew.
      for (const fd of Object.values(fds)) fd.close()
      return undefined
    }
  }

  /** Cookies of the pods that are captured. */
  cookies(): bigint[] {
    return this.#maps.pods.keys()
  }

  /** The hooks that serve all pods. */
  hooks(): Drift[] {
    return cgroupHooks.filter(({ program }) => !this.#pins.isLinkInForce(hookLink(program)))
      .map(({ program }) => ({ kind: 'hook', because: `the hook ${program} is not attached` }))
  }

  /** What is wrong for one pod; empty where its capture is in force as it was enrolled. */
  pod(cookie: bigint, pod: PodEnrolment, expected: ExpectedCapture): Drift[] {
    return [...this.#entry(cookie, pod), ...this.#steering(cookie, expected)]
  }

  *#entry(cookie: bigint, pod: PodEnrolment): Generator<Drift> {
    const entry = this.#maps.pods.get(cookie)
    if (!entry) return yield { kind: 'podEntry', because: 'its entry is missing' }
    const flags = (pod.failureMode === 'open' ? podFlag.open : 0) | (pod.dns ? podFlag.dns : 0)
    if (entry.flags !== flags) yield { kind: 'podEntry', because: 'its entry has other flags' }
    const ip4 = bytesOf(pod.ips.find((ip) => !isIpv6Address(ip)))
    const ip6 = bytesOf(pod.ips.find(isIpv6Address))
    if (Buffer.compare(entry.ip4, ip4) !== 0 || Buffer.compare(entry.ip6, ip6) !== 0) yield { kind: 'podEntry', because: 'its entry has another address' }
    for (const ip of pod.ips) {
      if (this.#maps.podAddresses.get(bytesOf(ip)) !== cookie) yield { kind: 'address', because: `${ip} does not lead to it` }
    }
    const ports = this.#probePorts.get(cookie) ?? new Set()
    const wrong = new Set(pod.probePorts).symmetricDifference(ports)
    if (wrong.size > 0) yield { kind: 'probePort', because: `probes are let in on other ports than it declares: ${[...wrong].join(', ')}` }
  }

  *#steering(cookie: bigint, { listeners, sockets, fences }: ExpectedCapture): Generator<Drift> {
    for (const kind of listeners) {
      const key = { netnsCookie: cookie, kind: layout.listenerKind[kind] }
      const socket = this.#maps.listeners.get(key)
      // One that was destroyed stays in the map.
      if (socket === undefined || (kind !== 'dns' && !sockets.has(socket))) yield { kind: 'listener', because: `nobody listens for it: ${kind}` }
    }
    if (!this.#pins.isLinkInForce(lookupLink(cookie))) yield { kind: 'lookup', because: 'inbound steering is not attached' }
    for (const ifindex of fences) {
      if (this.#maps.fences.get(ifindex) !== cookie || !this.#pins.isLinkInForce(fenceLink(cookie, ifindex))) yield { kind: 'fence', because: `the fence on interface ${ifindex} is not attached` }
    }
  }

  [Symbol.dispose](): void {
    this.#maps.close()
  }
}

function bytesOf(ip: string | undefined): Uint8Array {
  return (ip === undefined ? undefined : ipToBytes(ip)) ?? noAddress
}
