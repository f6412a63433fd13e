// Questions about names outside, asked of this machine's own name servers from where the daemon runs. Each has two seconds with
// all servers together; how many there are at once is the caller's to bound. Keeps no answers: what one pod is told harms no other.
import { createSocket } from 'node:dgram'
import { Resolver } from 'node:dns/promises'
import { connect, isIP } from 'node:net'
import { formatAddr, isIpv6Address, type SocketAddr } from '../core/address.ts'
import { FrameReader, frameOf } from '../dns/frames.ts'
import { headerBytes } from '../dns/message.ts'
import { hostResolvConf } from './host-files.ts'

export interface DnsForwarderOptions {
  /** Asked before each question: the file may change. Those of `/etc/resolv.conf` unless told. */
  readonly servers?: () => readonly SocketAddr[]
  /** For one question, with all servers; 2,000 unless told. */
  readonly timeoutMs?: number
}

/** What is known of a name's addresses; undefined where no server says. */
export type Addresses = { readonly ips: readonly string[]; readonly exists: boolean } | undefined

/** resolv.conf(5) has no more. */
const maxServers = 3
const dnsPort = 53
const flagResponse = 0x80
/** A server that says one of these may be the wrong one to ask: SERVFAIL, NOTIMP, REFUSED. */
const notTheLastWord: ReadonlySet<number> = new Set([2, 4, 5])

/** The name servers that a resolv.conf names; the machine itself where there are none, as resolvers have it. */
export function nameServersOf(resolvConf: string): SocketAddr[] {
  const ips = resolvConf.split('\n').flatMap((line) => {
    const [keyword, ip = ''] = line.trim().split(/\s+/)
    return keyword === 'nameserver' && isIP(ip) !== 0 ? [ip] : []
  })
  return (ips.length > 0 ? ips.slice(0, maxServers) : ['127.0.0.1']).map((ip) => ({ ip, port: dnsPort }))
}

export class DnsForwarder {
  readonly #servers: () => readonly SocketAddr[]
  readonly #timeoutMs: number
  readonly #attempts = new Set<AbortController>()
  #isClosed = false

  constructor({ servers = () => nameServersOf(hostResolvConf()), timeoutMs = 2000 }: DnsForwarderOptions = {}) {
    this.#servers = servers
    this.#timeoutMs = timeoutMs
  }

  /** The answer as it came, to a message with a header; undefined where no server gives one in time. Never rejects. */
  async ask(message: Uint8Array, transport: 'udp' | 'tcp'): Promise<Buffer | undefined> {
    const ask = transport === 'udp' ? askDatagram : askStream
    let last: Buffer | undefined
    await this.#each(async (server, signal) => {
      last = (await ask(message, server, signal)) ?? last
      return last !== undefined && !notTheLastWord.has((last[3] ?? 0) & 15)
    })
    return last
  }

  /** Never rejects. */
  async addresses(name: string, type: 'A' | 'AAAA'): Promise<Addresses> {
    let found: Addresses
    await this.#each(async (server, signal) => {
      // c-ares reads the answer and follows the aliases in it.
      const resolver = new Resolver({ timeout: this.#timeoutMs, tries: 1, maxTimeout: this.#timeoutMs })
      signal.addEventListener('abort', () => resolver.cancel(), { once: true })
      try {
        resolver.setServers([formatAddr(server)])
        found = { ips: await (type === 'A' ? resolver.resolve4(name) : resolver.resolve6(name)), exists: true }
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        if (code === 'ENODATA') found = { ips: [], exists: true }
        if (code === 'ENOTFOUND') found = { ips: [], exists: false }
      }
      return found !== undefined
    })
    return found
  }

  /** One server after the other, each with its share of the time that is left, until one has the last word. */
  async #each(attempt: (server: SocketAddr, signal: AbortSignal) => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + this.#timeoutMs
    const servers = this.#servers().slice(0, maxServers)
    for (const [index, server] of servers.entries()) {
      if (this.#isClosed) return
      const controller = new AbortController()
      this.#attempts.add(controller)
      const timer = setTimeout(() => controller.abort(), Math.max(1, (deadline - performance.now()) / (servers.length - index)))
      try {
        if (await attempt(server, controller.signal)) return
      } finally {
        clearTimeout(timer)
        this.#attempts.delete(controller)
      }
    }
  }

  /** Gives up what waits, and takes no more. */
  close(): void {
    this.#isClosed = true
    for (const attempt of this.#attempts) attempt.abort()
  }
}

function isAnswerTo(message: Uint8Array, answer: Uint8Array): boolean {
  const isSameId = answer[0] === message[0] && answer[1] === message[1]
  return answer.length >= headerBytes && isSameId && ((answer[2] ?? 0) & flagResponse) !== 0
}

/** From a port of its own, which nobody off the path can know. */
function askDatagram(message: Uint8Array, { ip, port }: SocketAddr, signal: AbortSignal): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket(isIpv6Address(ip) ? 'udp6' : 'udp4')
    let isOver = false
    const over = (answer?: Buffer): void => {
      if (isOver) return
      isOver = true
      signal.removeEventListener('abort', giveUp)
      socket.close()
      resolve(answer)
    }
    const giveUp = (): void => over()
    signal.addEventListener('abort', giveUp)
    // Nobody there, or no way there: the next server is asked.
    socket.on('error', giveUp)
    socket.on('message', (answer) => {
      if (isAnswerTo(message, answer)) over(answer)
    })
    socket.connect(port, ip, (error?: Error) => {
      if (isOver) return
      if (error) over()
      else socket.send(message)
    })
  })
}

function askStream(message: Uint8Array, { ip, port }: SocketAddr, signal: AbortSignal): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const reader = new FrameReader()
    const socket = connect({ host: ip, port, noDelay: true })
    const giveUp = (): void => {
      socket.destroy()
    }
    signal.addEventListener('abort', giveUp)
    socket.on('connect', () => socket.write(frameOf(message)))
    socket.on('data', (chunk: Buffer) => {
      try {
        const answer = reader.push(chunk).find((each) => isAnswerTo(message, each))
        if (!answer) return
        // Its bytes are part of a buffer that may be larger.
        resolve(Buffer.from(answer))
      } catch {
        // It speaks something else; the close that follows is the answer.
      }
      socket.destroy()
    })
    // The close that follows tells.
    socket.on('error', () => {})
    socket.on('close', () => {
      signal.removeEventListener('abort', giveUp)
      resolve(undefined)
    })
  })
}
