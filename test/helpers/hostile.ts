// What attackers of a mesh have: certificates of their own, or stolen ones that the mesh's CA really signed, and connections and
// listeners in any network namespace. Never used but against a mesh of the same test.
import { once } from 'node:events'
import http2 from 'node:http2'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { join } from 'node:path'
import { connect as tlsConnect } from 'node:tls'
import type { ConnectionOptions, TLSSocket } from 'node:tls'
import type { CertifiedKey } from '../../src/core/certificates.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { connectInNetns, listenInNetns } from '../../src/kernel/sockets.ts'
import { loadSigners, openDirectory } from '../../src/pki/authority-store.ts'
import { makeIntermediate, makeLeaf, makeRoot } from '../../src/pki/testing.ts'
import type { Made, Wish } from '../../src/pki/testing.ts'
import * as x509 from '../../src/pki/x509.ts'
import type { TunnelWorld } from './tunnel-world.ts'

export type Stolen = Pick<CertifiedKey, 'chainPem' | 'key'> & { readonly serial: string }

/** Signs whatever it is asked to, with the keys of the mesh or with others that look like them. */
export class ForgingCa {
  readonly #intermediate: Made

  private constructor(intermediate: Made) {
    this.#intermediate = intermediate
  }

  /** Has broken into the control plane. */
  static async ofMesh({ mesh }: TunnelWorld): Promise<ForgingCa> {
    const directory = join(mesh.paths.controlPlane, 'ca')
    const { rotation } = await openDirectory(directory, 'cluster.local', Date.now())
    const [signer] = [...(await loadSigners(directory, rotation)).values()]
    if (!signer) throw new Error(`there is no CA in ${directory}`)
    const { key, facts } = signer.intermediate
    return new ForgingCa({ key, facts, der: facts.der, pem: facts.x509.toString(), name: nameOf(facts.der) })
  }

  /** With the names of the mesh's CA, and keys of its own. */
  static async lookingLike(other: ForgingCa): Promise<ForgingCa> {
    const { issuer } = new x509.X509Certificate(other.#intermediate.der)
    const root = await makeRoot({ subject: issuer })
    return new ForgingCa(await makeIntermediate(root, { subject: other.#intermediate.name }))
  }

  /** For an identity (`spiffe://...`), wrong in what `wish` says. */
  async leaf(identity: string, wish: Wish = {}): Promise<Stolen> {
    const made = await makeLeaf(this.#intermediate, { names: [{ type: 'url', value: identity }], ...wish })
    return { chainPem: `${made.pem}\n${this.#intermediate.pem}`, key: made.key, serial: made.facts.serial }
  }

  /** Signed by a workload that takes its certificate for a CA's. */
  async belowLeaf(of: string, identity: string): Promise<Stolen> {
    const middle = await makeLeaf(this.#intermediate, { subject: 'CN=workload', names: [{ type: 'url', value: of }] })
    const made = await makeLeaf(middle, { names: [{ type: 'url', value: identity }] })
    return { chainPem: [made.pem, middle.pem, this.#intermediate.pem].join('\n'), key: made.key, serial: made.facts.serial }
  }

  /** By nobody but itself. */
  static async selfSigned(identity: string): Promise<Stolen> {
    const made = await makeRoot({ subject: 'CN=me', ca: false, names: [{ type: 'url', value: identity }], extended: ['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2'] })
    return { chainPem: made.pem, key: made.key, serial: made.facts.serial }
  }
}

function nameOf(der: Buffer): string {
  return new x509.X509Certificate(der).subject
}

export function showing({ chainPem, key }: Stolen): ConnectionOptions {
  return { cert: chainPem, key: key.export({ type: 'pkcs8', format: 'pem' }) }
}

/** Connections and listeners in a world's namespaces; all are closed when it is disposed. */
export class Hostile implements AsyncDisposable {
  readonly #world: TunnelWorld
  readonly #sockets = new Set<Socket>()
  readonly #servers = new Set<Server>()

  constructor(world: TunnelWorld) {
    this.#world = world
  }

  /** A TCP connection from that pod's, node's or the outside's namespace. */
  async tcp(from: string, host: string, port = 15_008): Promise<Socket> {
    const netns = await Netns.open(this.#world.netns(from))
    try {
      const socket = await connectInNetns(netns, { host, port, timeoutMs: 5_000 })
      // Whoever is hung up on hangs up: tests wait for that.
      socket.allowHalfOpen = false
      return this.#keep(socket)
    } finally {
      netns.close()
    }
  }

  #keep<S extends Socket>(socket: S): S {
    this.#sockets.add(socket)
    socket.on('error', () => {}) // its end is what tests look at
    socket.once('close', () => this.#sockets.delete(socket))
    return socket
  }

  /** The beginning of a TLS connection over that; who needs it to be done awaits 'secureConnect'. */
  async tls(from: string, host: string, options: ConnectionOptions): Promise<TLSSocket> {
    const socket = await this.tcp(from, host)
    return this.#keep(tlsConnect({ socket, ALPNProtocols: ['h2'], rejectUnauthorized: false, minVersion: 'TLSv1.2', ...options }))
  }

  /** An HTTP/2 session that is let in. */
  async session(from: string, host: string, stolen: Stolen): Promise<http2.ClientHttp2Session> {
    const tls = await this.tls(from, host, showing(stolen))
    await once(tls, 'secureConnect')
    const session = http2.connect('https://hbone', { createConnection: () => tls })
    session.on('error', () => {}) // its end is what tests look at
    return session
  }

  /** Listens in a namespace on one address. Whoever connects is handed to `onConnection`. */
  async listen(where: string, host: string, port: number, onConnection: (socket: Socket) => void): Promise<Server> {
    const netns = await Netns.open(this.#world.netns(where))
    try {
      const fd = await listenInNetns(netns, { host, port })
      const server = createServer({ allowHalfOpen: true }, (socket) => onConnection(this.#keep(socket)))
      this.#servers.add(server)
      await new Promise<void>((resolve) => server.listen({ fd: fd.release() }, resolve))
      return server
    } finally {
      netns.close()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await Promise.all([...this.#servers].map((server) => new Promise((resolve) => server.close(resolve))))
  }
}

/** `:status` of the answer to a request, or what ended it: `reset`. */
export async function statusOf(session: http2.ClientHttp2Session, headers: http2.OutgoingHttpHeaders): Promise<number | 'reset'> {
  const stream = session.request(headers, { endStream: false })
  stream.on('error', () => {}) // 'close' follows
  return new Promise((resolve) => {
    stream.once('response', (answer) => {
      resolve(Number(answer[':status']))
      stream.close()
    })
    stream.once('close', () => resolve('reset'))
  })
}
