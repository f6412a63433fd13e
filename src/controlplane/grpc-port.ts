// The port on which nodes call: TLS 1.3 made here, gRPC above it by grpc-js. A connection is bounded before grpc-js hears of it (how
// many, and how long a handshake may take), and the certificate can be replaced while connections stand. Knows no service.
import { createServer } from 'node:tls'
import type { Server as TlsServer } from 'node:tls'
import type { AddressInfo, Socket } from 'node:net'
import type { KeyObject } from 'node:crypto'
import { ServerCredentials } from '@grpc/grpc-js'
import type { Server } from '@grpc/grpc-js'
import { MeshError } from '../core/errors.ts'

export interface ServingCertificate {
  /** Leaf first, then intermediates. */
  readonly chainPem: string
  readonly key: KeyObject
}

export interface GrpcPortOptions {
  /** With its services added. */
  readonly server: Server
  readonly host: string
  /** 0 takes any. */
  readonly port: number
  readonly certificate: ServingCertificate
  readonly maxConnections: number
  /** From one address, so that one stranger cannot take all. */
  readonly maxConnectionsPerAddress: number
  readonly handshakeTimeoutMs?: number
  /** A handshake that failed, for metrics. */
  readonly onHandshakeError?: (error: Error) => void
}

const defaultHandshakeMs = 10_000

function contextOf({ chainPem, key }: ServingCertificate): { cert: string; key: string | Buffer } {
  return { cert: chainPem, key: key.export({ format: 'pem', type: 'pkcs8' }) }
}

export class GrpcPort {
  readonly #tls: TlsServer
  readonly #server: Server
  readonly #sockets: Set<Socket>

  private constructor(tls: TlsServer, server: Server, sockets: Set<Socket>) {
    this.#tls = tls
    this.#server = server
    this.#sockets = sockets
  }

  /** Resolves when it listens; BAD_CONFIG if the address cannot be had. */
  static async listen(options: GrpcPortOptions): Promise<GrpcPort> {
    const { server, host, port, certificate, maxConnections, maxConnectionsPerAddress, handshakeTimeoutMs = defaultHandshakeMs, onHandshakeError = () => undefined } = options
    const tls = createServer({ ...contextOf(certificate), ALPNProtocols: ['h2'], minVersion: 'TLSv1.3', handshakeTimeout: handshakeTimeoutMs })
    tls.maxConnections = maxConnections
    const injector = server.createConnectionInjector(ServerCredentials.createInsecure())
    const sockets = new Set<Socket>()
    const perAddress = new Map<string, number>()
    // Before the TLS server's own listener, which begins the handshake.
    tls.prependListener('connection', (socket: Socket) => {
      const address = socket.remoteAddress ?? ''
      const others = perAddress.get(address) ?? 0
      if (others >= maxConnectionsPerAddress) return void socket.destroy()
      perAddress.set(address, others + 1)
      sockets.add(socket)
      socket.once('close', () => {
        sockets.delete(socket)
        const left = (perAddress.get(address) ?? 1) - 1
        if (left > 0) perAddress.set(address, left)
        else perAddress.delete(address)
      })
    })
    tls.on('tlsClientError', (error, socket) => {
      socket.destroy()
      onHandshakeError(error)
    })
    tls.on('secureConnection', (socket) => {
      // Whatever breaks a connection ends its streams, and they tell.
      socket.on('error', () => {})
      // Who did not agree on HTTP/2 would only be told so in HTTP/2.
      if (socket.alpnProtocol !== 'h2') return void socket.destroy()
      injector.injectConnection(socket)
    })
    await new Promise<void>((resolve, reject) => {
      tls.once('error', (cause) => reject(new MeshError('BAD_CONFIG', `cannot listen on ${host} port ${port}: ${cause.message}`, { cause })))
      tls.listen({ host, port }, resolve)
    })
    return new GrpcPort(tls, server, sockets)
  }

  get port(): number {
    return (this.#tls.address() as AddressInfo).port
  }

  get connections(): number {
    return this.#sockets.size
  }

  /** For new handshakes; connections that stand keep theirs. */
  setCertificate(certificate: ServingCertificate): void {
    this.#tls.setSecureContext({ ...contextOf(certificate), minVersion: 'TLSv1.3' })
  }

  /** Ends all connections; calls that still run are cut after `graceMs`. */
  async close(graceMs = 500): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#tls.close(() => resolve()))
    const drained = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([drained, new Promise<void>((resolve) => (timer = setTimeout(resolve, graceMs)))])
    clearTimeout(timer)
    this.#server.forceShutdown()
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }
}
