// A peer without manners: speaks HTTP/2 frame by frame over TLS, as no library would. Never imported by anything but tests.
import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect } from 'node:tls'
import type { TLSSocket } from 'node:tls'
import type { CertifiedKey } from '../core/certificates.ts'

export const type = { data: 0, headers: 1, reset: 3, settings: 4, ping: 6, goaway: 7, windowUpdate: 8, continuation: 9 } as const

export function frame(kind: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = kind
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** One header field, literal and never indexed (RFC 7541, 6.2.2). */
export function field(name: string, value: string): Buffer {
  const [n, v] = [Buffer.from(name), Buffer.from(value)]
  return Buffer.concat([Buffer.from([0x00]), length(n.length), n, length(v.length), v])
}

function length(value: number): Buffer {
  if (value < 127) return Buffer.from([value])
  const bytes = [127]
  let rest = value - 127
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 0x80)
  return Buffer.from([...bytes, rest])
}

export const connectFields = Buffer.concat([field(':method', 'CONNECT'), field(':authority', '10.0.0.2:80')])

export class RawPeer {
  readonly socket: TLSSocket
  readonly goaways: number[] = []
  readonly resets: { readonly stream: number; readonly code: number }[] = []
  readonly answered = new Set<number>()
  #buffer = Buffer.alloc(0)

  private constructor(socket: TLSSocket) {
    this.socket = socket
    socket.on('error', () => {}).on('data', (chunk: Buffer) => this.#read(chunk))
  }

  /** To a port of loopback, or over a connection that was made before. */
  static async connect(where: number | Socket, { chainPem, key }: Pick<CertifiedKey, 'chainPem' | 'key'>): Promise<RawPeer> {
    const socket = connect({
      ...(typeof where === 'number' ? { host: '127.0.0.1', port: where } : { socket: where }), ALPNProtocols: ['h2'], rejectUnauthorized: false, cert: chainPem, key: key.export({ type: 'pkcs8', format: 'pem' }),
    })
    await once(socket, 'secureConnect')
    const peer = new RawPeer(socket)
    peer.send(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(type.settings, 0, 0))
    return peer
  }

  send(...frames: Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(frames))
  }

  #read(chunk: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, chunk])
    while (this.#buffer.length >= 9) {
      const size = this.#buffer.readUIntBE(0, 3)
      if (this.#buffer.length < 9 + size) return
      const [kind, stream] = [this.#buffer[3], this.#buffer.readUInt32BE(5)]
      const payload = this.#buffer.subarray(9, 9 + size)
      this.#buffer = this.#buffer.subarray(9 + size)
      if (kind === type.goaway) this.goaways.push(payload.readUInt32BE(4))
      if (kind === type.reset) this.resets.push({ stream, code: payload.readUInt32BE(0) })
      if (kind === type.headers) this.answered.add(stream)
    }
  }
}
