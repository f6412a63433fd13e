// The name server of a local mesh, at the address that is in its pods' resolv.conf, as CoreDNS is in a cluster: for pods outside
// the mesh, and for what a ztunnel does not answer. Listens in the namespace between the nodes; asks about names outside from the
// daemon's own. A pod that floods it loses its own answers (service-rules.ts); what it can hold here is bounded.
import type { RemoteInfo, Socket as DatagramSocket } from 'node:dgram'
import { createServer, type Server, type Socket } from 'node:net'
import { canonicalIp, type SocketAddr } from '../core/address.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { serverFailure, writeAnswer, type Answer } from '../dns/message.ts'
import { Netns } from '../kernel/netns.ts'
import { bindUdpInNetns, datagramSocket, listenInNetns } from '../kernel/sockets.ts'
import type { ServiceManifest } from '../model/manifest.ts'
import type { RuntimeFacts } from '../model/running-pod.ts'
import { clusterDns, clusterDnsPort } from './addresses.ts'
import { DnsConnection } from './dns-connection.ts'
import { DnsForwarder } from './dns-forwarder.ts'
import { LocalNames } from './dns-names.ts'
import { ClusterZone, type Judgement, type Transport } from './dns-zone.ts'

/** Questions that wait for a server outside at once: of one address, and of all. */
const maxOutsideOfOne = 64
const maxOutside = 512
const maxConnectionsOfOne = 16
const maxConnections = 256
/** Answers over UDP that the kernel has not taken yet. */
const maxUnsent = 256
/** Seconds for addresses behind a service that is a name. */
const outsideTtl = 5
/** One line in that time: a flood must not become a flood of logs. */
const overloadLogIntervalMs = 10_000

export interface DnsServerOptions {
  /** Path that opens the namespace which has the cluster DNS addresses. */
  readonly netns: string
  /** Instead of this machine's own, for names outside. */
  readonly nameServers?: readonly SocketAddr[]
  readonly logger: Logger
}

type Alias = Extract<Judgement, { t: 'alias' }>

/** How many of each client there are, and of all. */
class Shares {
  readonly #most: { readonly ofOne: number; readonly ofAll: number }
  readonly #taken = new Map<string, number>()
  #all = 0

  constructor(ofOne: number, ofAll: number) {
    this.#most = { ofOne, ofAll }
  }

  take(client: string): boolean {
    const taken = this.#taken.get(client) ?? 0
    if (taken >= this.#most.ofOne || this.#all >= this.#most.ofAll) return false
    this.#taken.set(client, taken + 1)
    this.#all++
    return true
  }

  giveBack(client: string): void {
    const left = (this.#taken.get(client) ?? 1) - 1
    if (left > 0) this.#taken.set(client, left)
    else this.#taken.delete(client)
    this.#all--
  }
}

export class DnsServer {
  readonly #names = new LocalNames()
  readonly #zone = new ClusterZone(this.#names)
  readonly #forwarder: DnsForwarder
  readonly #logger: Logger
  readonly #datagramSockets: DatagramSocket[] = []
  readonly #servers: Server[] = []
  readonly #open = new Set<DnsConnection>()
  readonly #outside = new Shares(maxOutsideOfOne, maxOutside)
  readonly #connections = new Shares(maxConnectionsOfOne, maxConnections)
  #unsent = 0
  #refused = 0
  #refusedSince = -Infinity

  private constructor({ nameServers, logger }: DnsServerOptions) {
    this.#forwarder = new DnsForwarder(nameServers && { servers: () => nameServers })
    this.#logger = logger
  }

  /** Listens; until the first `update`, names of the cluster fail. Rejects with SYSCALL_FAILED. */
  static async start(options: DnsServerOptions): Promise<DnsServer> {
    const server = new DnsServer(options)
    const netns = await Netns.open(options.netns)
    try {
      for (const host of Object.values(clusterDns)) await server.#listen(netns, host)
    } catch (error) {
      await server.close()
      throw error
    } finally {
      netns.close()
    }
    return server
  }

  async #listen(netns: Netns, host: string): Promise<void> {
    const socket = await datagramSocket(await bindUdpInNetns(netns, { port: clusterDnsPort, host }), host)
    this.#datagramSockets.push(socket)
    socket.on('message', (message, from) => this.#datagram(message, from, socket))
    socket.on('error', (error) => this.#logger.warn({ error: error.message }, 'dns socket failed'))
    const descriptor = await listenInNetns(netns, { port: clusterDnsPort, host, backlog: maxConnections })
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (connection) => this.#accept(connection))
    this.#servers.push(server)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ fd: descriptor.release() }, resolve)
    })
    server.on('error', (error) => this.#logger.warn({ error: error.message }, 'dns listener failed'))
  }

  /** What there is now; neither may be changed afterwards. */
  update(services: ReadonlyMap<string, ServiceManifest>, facts: RuntimeFacts): void {
    this.#names.update(services, facts)
  }

  #datagram(message: Buffer, from: RemoteInfo, socket: DatagramSocket): void {
    const reply = (answer: Buffer | undefined): void => {
      if (!answer || !this.#datagramSockets.includes(socket) || this.#unsent >= maxUnsent) return
      this.#unsent++
      // A client that cannot be told has gone.
      socket.send(answer, from.port, from.address, () => this.#unsent--)
    }
    const answer = this.#respond(message, from.address, 'udp')
    if (answer instanceof Promise) void answer.then(reply)
    else reply(answer)
  }

  #accept(socket: Socket): void {
    const client = canonicalIp(socket.remoteAddress ?? '') ?? ''
    if (!this.#connections.take(client)) {
      socket.on('error', () => {}) // it is being reset; what the client does meanwhile is of no interest
      socket.resetAndDestroy()
      this.#overloaded(client)
      return
    }
    const connection = new DnsConnection(socket, (message) => this.#respond(message, client, 'tcp'))
    this.#open.add(connection)
    socket.on('close', () => {
      this.#open.delete(connection)
      this.#connections.giveBack(client)
    })
  }

  #respond(message: Buffer, client: string, transport: Transport): Buffer | undefined | Promise<Buffer> {
    const judgement = this.#zone.judge(message, transport)
    switch (judgement.t) {
      case 'drop':
        return undefined
      case 'answer':
        return judgement.message
      case 'outside':
        return this.#bounded(message, client, () => this.#forwarder.ask(message, transport))
      case 'alias':
        return this.#bounded(message, client, () => this.#aliased(judgement, transport))
    }
  }

  #bounded(message: Buffer, client: string, ask: () => Promise<Buffer | undefined>): Buffer | Promise<Buffer> {
    if (!this.#outside.take(client)) {
      this.#overloaded(client)
      return serverFailure(message)
    }
    return ask().then((answer) => answer ?? serverFailure(message), (error: unknown) => {
      this.#logger.warn({ error: describeError(error) }, 'dns query failed')
      return serverFailure(message)
    }).finally(() => this.#outside.giveBack(client))
  }

  async #aliased({ query, aliases, target }: Alias, transport: Transport): Promise<Buffer | undefined> {
    const type = query.type === 'AAAA' ? 'AAAA' : 'A'
    const found = await this.#forwarder.addresses(target, type)
    if (!found) return undefined
    const addresses = found.ips.map((ip): Answer => ({ type, owner: target, ttl: outsideTtl, ip }))
    return writeAnswer(query, [...aliases, ...addresses], transport, found.exists ? 'NOERROR' : 'NXDOMAIN')
  }

  #overloaded(client: string): void {
    this.#refused++
    const now = performance.now()
    if (now - this.#refusedSince < overloadLogIntervalMs) return
    this.#logger.warn({ code: 'OVERLOADED', 'src.addr': client, count: this.#refused }, 'dns query refused')
    this.#refusedSince = now
    this.#refused = 0
  }

  /** At once: what waits is not answered. */
  async close(): Promise<void> {
    this.#forwarder.close()
    for (const socket of this.#datagramSockets.splice(0)) socket.close()
    for (const connection of this.#open) connection.abort()
    await Promise.all(this.#servers.splice(0).map((server) => new Promise<void>((resolve) => server.close(() => resolve()))))
  }
}
