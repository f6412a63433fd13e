// The PROXY protocol's header, version 2 (haproxy.org/download/2.9/doc/proxy-protocol.txt), for applications that are themselves
// proxies: who connected, whereto, and as whom. Writes only; nobody sends us one.
import type { Socket } from 'node:net'
import { ipToBytes } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'

const signature = Buffer.from('0d0a0d0a000d0a515549540a', 'hex')
const version2Proxy = 0x21
const tcpOver4 = 0x11
const tcpOver6 = 0x21
/** The client's SPIFFE ID as text: of the range for custom use, and the one that Istio's waypoints read. */
const identityTlv = 0xd0

/**
 * Both addresses in canonical text; where one is IPv6, the other is written as v4-mapped, because a header has one family.
 * BAD_MESSAGE for what is no address.
 */
export function proxyHeader(source: SocketAddr, destination: SocketAddr, identity: Identity | undefined): Buffer {
  const [from, to] = [bytesOf(source), bytesOf(destination)]
  const is4 = isMapped(from) && isMapped(to)
  const ports = Buffer.alloc(4)
  ports.writeUInt16BE(source.port, 0)
  ports.writeUInt16BE(destination.port, 2)
  const addresses = is4 ? [from.subarray(12), to.subarray(12)] : [from, to]
  const body = Buffer.concat([...addresses, ports, identity ? tlv(identityTlv, formatIdentity(identity)) : Buffer.alloc(0)])
  const head = Buffer.from([version2Proxy, is4 ? tcpOver4 : tcpOver6, body.length >> 8, body.length & 0xff])
  return Buffer.concat([signature, head, body])
}

function tlv(type: number, text: string): Buffer {
  const value = Buffer.from(text)
  return Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 0xff]), value])
}

/** Sixteen bytes, v4 as v4-mapped. */
function bytesOf({ ip }: SocketAddr): Uint8Array {
  const bytes = ipToBytes(ip)
  if (bytes) return bytes
  throw new MeshError('BAD_MESSAGE', `${ip} is no address that a PROXY header could name`)
}

function isMapped(bytes: Uint8Array): boolean {
  return bytes.subarray(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff
}

/** Resolves when the kernel has it, because whoever carries the bytes takes the connection away from this socket. CONNECT_FAILED. */
export function sendHeader(socket: Socket, header: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (cause: Error): void => {
      socket.destroy()
      reject(new MeshError('CONNECT_FAILED', 'the application closed before it had the PROXY header', { source: 'upstream', cause }))
    }
    socket.once('error', onError).write(header, (error) => {
      if (error) return onError(error)
      socket.off('error', onError)
      resolve()
    })
  })
}
