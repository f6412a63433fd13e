// DNS over UDP, for now carried verbatim: each query goes to the server that the pod asked, from a socket of its own in
// the pod's namespace, and the answer goes back. Bounded in number and time; what exceeds either is dropped, as UDP may.
import type { RemoteInfo, Socket } from 'node:dgram'
import { canonicalIp, isIpv6Address } from '../core/address.ts'
import type { SocketAddr } from '../core/address.ts'
import type { Logger } from '../core/log.ts'
import { port as ports } from '../kernel/generated/layout.ts'
import type { Netns } from '../kernel/netns.ts'
import type { Redirection } from '../kernel/redirection.ts'
import { bindUdpInNetns, datagramSocket } from '../kernel/sockets.ts'

/** Queries of one pod that wait for an answer at once. */
const maxPending = 512
/** Longer than resolvers wait before they ask again (5 s in glibc). */
const answerTimeoutMs = 6_000

export class DnsForwarder {
  readonly #netns: Netns
  readonly #redirection: Redirection
  readonly #logger: Logger
  readonly #pending = new Set<() => void>()
  #listener: Socket | undefined
  #queries = 0

  constructor(netns: Netns, redirection: Redirection, logger: Logger) {
    this.#netns = netns
    this.#redirection = redirection
    this.#logger = logger
  }

  get queries(): number {
    return this.#queries
  }

  async listen(): Promise<void> {
    const fd = await bindUdpInNetns(this.#netns, { port: ports.dns })
    this.#redirection.registerListener(this.#netns.cookie, 'dns', fd.fd)
    this.#listener = await datagramSocket(fd, undefined)
    this.#listener.on('message', (query, from) => void this.#forward(query, from))
    this.#listener.on('error', (error) => this.#logger.warn({ error: error.message }, 'dns listener failed'))
  }

  async #forward(query: Buffer, from: RemoteInfo): Promise<void> {
    const ip = canonicalIp(from.address)
    const server = ip === undefined ? undefined : this.#redirection.originalDnsServer(this.#netns.cookie, { ip, port: from.port })
    if (!server) {
      this.#logger.info({ 'src.addr': from.address, code: 'ORIGINAL_DESTINATION_UNKNOWN' }, 'dns query dropped')
      return
    }
    if (this.#pending.size >= maxPending) {
      this.#logger.warn({ limit: maxPending, code: 'TOO_MANY_CONNECTIONS' }, 'dns query dropped')
      return
    }
    this.#queries++
    try {
      await this.#ask(query, server, (answer) => this.#listener?.send(answer, from.port, from.address))
    } catch (error) {
      this.#logger.warn({ error: error instanceof Error ? error.message : String(error) }, 'dns query failed')
    }
  }

  /** Passes the first answer that comes from the server itself and bears the query's id. */
  async #ask(query: Buffer, server: SocketAddr, onAnswer: (answer: Buffer) => void): Promise<void> {
    const host = isIpv6Address(server.ip) ? '::' : '0.0.0.0'
    let finish = (): void => {}
    const finished = new Promise<void>((resolve) => (finish = resolve))
    this.#pending.add(finish)
    const timer = setTimeout(finish, answerTimeoutMs)
    try {
      const fd = await bindUdpInNetns(this.#netns, { port: 0, host, socketMark: this.#redirection.bypassMark() })
      const socket = await datagramSocket(fd, host)
      socket.on('error', finish)
      socket.on('message', (answer, from) => {
        if (canonicalIp(from.address) !== server.ip || from.port !== server.port || !sameId(query, answer)) return
        onAnswer(answer)
        finish()
      })
      socket.send(query, server.port, server.ip)
      await finished
      socket.close()
    } finally {
      clearTimeout(timer)
      this.#pending.delete(finish)
    }
  }

  close(): void {
    this.#listener?.close()
    this.#listener = undefined
    for (const finish of this.#pending) finish()
  }
}

/** The first two bytes: RFC 1035, section 4.1.1. */
function sameId(query: Buffer, answer: Buffer): boolean {
  return query.length >= 12 && answer.length >= 12 && query.readUInt16BE(0) === answer.readUInt16BE(0)
}
