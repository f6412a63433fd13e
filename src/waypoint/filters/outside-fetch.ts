// A document from a URL that a configuration names, such as an issuer's keys. Bounded in size and time, follows no redirects, and
// reaches no address that only this pod has: a URL must not turn us against our own admin port or a node's metadata service.
import { BlockList, isIP } from 'node:net'
import { lookup } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { Agent, request } from 'undici'
import { MeshError } from '../../core/errors.ts'

export interface FetchLimits {
  readonly timeoutMs: number
  readonly maxBytes: number
}

/** The body of a 200 as text. Rejects with a MeshError. */
export type Fetch = (url: URL, limits: FetchLimits) => Promise<string>

/** Loopback, link-local (with the metadata services of clouds), unspecified, multicast and broadcast. */
function forbiddenAddresses(): BlockList {
  const list = new BlockList()
  list.addSubnet('0.0.0.0', 8)
  list.addSubnet('127.0.0.0', 8)
  list.addSubnet('169.254.0.0', 16)
  list.addSubnet('224.0.0.0', 3)
  list.addSubnet('::', 127, 'ipv6')
  list.addSubnet('fe80::', 10, 'ipv6')
  list.addSubnet('ff00::', 8, 'ipv6')
  list.addAddress('fd00:ec2::254', 'ipv6')
  return list
}

const forbidden = forbiddenAddresses()

/** Whether a document may be fetched from there. IPv4 in IPv6 counts as the IPv4 that it is. */
export function isForbiddenAddress(ip: string): boolean {
  const version = isIP(ip)
  if (version === 0) return true
  const plain = ip.split('%')[0] ?? ip
  return forbidden.check(plain, version === 6 ? 'ipv6' : 'ipv4')
}

export interface OutsideFetchOptions {
  /** Let addresses of this machine be asked: for tests, and for who runs an issuer beside us. */
  readonly mayReachLocal?: boolean
  /** PEM, in place of the system's authorities. */
  readonly authorities?: string
}

export class OutsideFetch {
  readonly #agent: Agent
  readonly #mayReachLocal: boolean

  constructor({ mayReachLocal = false, authorities }: OutsideFetchOptions = {}) {
    this.#mayReachLocal = mayReachLocal
    this.#agent = new Agent({
      connections: 2, pipelining: 1, keepAliveTimeout: 10_000, maxHeaderSize: 32_768,
      connect: {
        timeout: 5_000, ...(authorities !== undefined && { ca: authorities }), ...(!mayReachLocal && { lookup: guardedLookup }),
      },
    })
  }

  readonly fetch: Fetch = async (url, { timeoutMs, maxBytes }) => {
    const host = url.hostname.replace(/^\[|\]$/g, '')
    // A name is looked up, and judged, when the connection is made; an address is not looked up.
    if (!this.#mayReachLocal && isIP(host) !== 0 && isForbiddenAddress(host)) throw away(url, 'that address may not be asked')
    if ((url.protocol !== 'https:' && url.protocol !== 'http:') || url.username !== '' || url.password !== '') throw away(
      url, 'the URL may not be asked',
    )
    try {
      const { statusCode, body } = await request(url, {
        dispatcher: this.#agent, method: 'GET', headers: { accept: 'application/json', 'user-agent': 'sidestep' },
        signal: AbortSignal.timeout(timeoutMs), headersTimeout: timeoutMs, bodyTimeout: timeoutMs,
      })
      if (statusCode !== 200) {
        // It tells that it was given up as an error.
        body.on('error', () => {}).destroy()
        throw away(url, `it answered ${statusCode}`)
      }
      const chunks: Buffer[] = []
      let length = 0
      for await (const chunk of body as AsyncIterable<Buffer>) {
        length += chunk.length
        if (length > maxBytes) throw away(url, `it is larger than ${maxBytes} bytes`)
        chunks.push(chunk)
      }
      return Buffer.concat(chunks).toString('utf8')
    } catch (error) {
      throw error instanceof MeshError ? error : away(url, 'it does not answer', error)
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy()
  }
}

function away(url: URL, why: string, cause?: unknown): MeshError {
  return new MeshError('CONNECT_FAILED', `${url.origin}${url.pathname} gives no document: ${why}`, { source: 'upstream', cause })
}

/** The address that is judged is the one that is connected to: nothing is looked up twice. */
const guardedLookup: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses) => {
    const allowed = error ? [] : addresses.filter(({ address }) => !isForbiddenAddress(address))
    const [first] = allowed
    if (!first) callback(error ?? Object.assign(new Error('no address that may be asked'), { code: 'ENOTFOUND' }), [])
    else if (options.all === true) callback(null, allowed)
    else callback(null, first.address, first.family)
  })
}
