// A network namespace held open by descriptor. Its cookie is the pod's identity on this node: the kernel gives it, no
// address that a peer could claim. Close it, or the namespace outlives the pod.
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'
import { SpareSockets } from './spare-sockets.ts'
import { bytesToIp, ipToBytes, isIpv6Address } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'

/** One established TCP connection as sock_diag lists it. */
export interface LiveConnection {
  readonly source: SocketAddr
  readonly destination: SocketAddr
  readonly mark: number
}

export interface VethEnd {
  readonly name: string
  /** Interface index of the other end, in the other namespace. */
  readonly peerIndex: number
}

export class Netns {
  readonly fd: OwnedFd
  readonly cookie: bigint
  readonly inode: bigint
  readonly spareSockets: SpareSockets

  private constructor(fd: OwnedFd, info: { cookie: bigint; inode: bigint }) {
    this.fd = fd
    this.cookie = info.cookie
    this.inode = info.inode
    this.spareSockets = new SpareSockets(fd)
  }

  /** `path` opens a namespace, such as /proc/PID/ns/net. Throws SYSCALL_FAILED. */
  static async open(path: string): Promise<Netns> {
    const fd = native().openPath(path)
    try {
      return new Netns(fd, await native().netnsInfo(fd))
    } catch (error) {
      fd.close()
      throw error
    }
  }

  /** The veth pairs that lead out of this namespace. */
  async veths(): Promise<VethEnd[]> {
    const links = await native().netnsLinks(this.fd)
    return links.filter((link) => link.peerIndex !== 0).map(({ name, peerIndex }) => ({ name, peerIndex }))
  }

  /**
   * The first address of each family by which others reach the namespace, IPv4 first: of its first interface that has
   * one, loopback aside. What a pod of one network is known by.
   */
  async addresses(): Promise<string[]> {
    const found = (await native().netnsAddresses(this.fd)).toSorted((a, b) => a.index - b.index).map(({ ip }) => bytesToIp(ip))
    return [found.find((ip) => !isIpv6Address(ip)), found.find(isIpv6Address)].filter((ip) => ip !== undefined)
  }

  /** All addresses by which others reach the namespace, canonical; not those of loopback interfaces. */
  async allAddresses(): Promise<string[]> {
    return (await native().netnsAddresses(this.fd)).map(({ ip }) => bytesToIp(ip))
  }

  async liveConnections(): Promise<LiveConnection[]> {
    const sockets = await native().listSockets(this.fd)
    return sockets.map(({ source, destination, mark }) => ({
      source: { ip: bytesToIp(source.ip), port: source.port },
      destination: { ip: bytesToIp(destination.ip), port: destination.port },
      mark,
    }))
  }

  /** The kernel's cookies of the sockets that listen for TCP here. */
  async listeners(): Promise<Set<bigint>> {
    return new Set((await native().listSockets(this.fd, true)).map(({ cookie }) => cookie))
  }

  /** Ends one of this namespace's TCP sockets as if the kernel had aborted it; false if there is none. */
  destroyConnection(source: SocketAddr, destination: SocketAddr): Promise<boolean> {
    return native().destroySocket(this.fd, { source: nativeAddress(source), destination: nativeAddress(destination) })
  }

  close(): void {
    this.spareSockets.close()
    this.fd.close()
  }
}

/** 16 bytes and port; throws BAD_CONFIG for text that is not an IP address. */
export function nativeAddress(addr: SocketAddr): { ip: Uint8Array; port: number } {
  const ip = ipToBytes(addr.ip)
  if (!ip) throw new MeshError('BAD_CONFIG', `not an IP address: ${addr.ip}`)
  return { ip, port: addr.port }
}
