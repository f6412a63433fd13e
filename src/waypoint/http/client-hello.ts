// Reads a TLS ClientHello (RFC 8446, 4.1.2) as far as a router needs it: which server is asked for and which protocols are offered.
// A look at bytes that somebody else will decrypt: never answers, never keeps them, never throws.

export interface ClientHello {
  /** SNI in lower case, without a last dot; undefined if none or none that is a host name. */
  readonly serverName?: string
  readonly alpn: readonly string[]
}

export type HelloDecision = { readonly t: 'hello'; readonly hello: ClientHello } | { readonly t: 'more' } | { readonly t: 'notTls' }

/** More than any client sends; who sends more is not understood. */
export const longestHelloBytes = 65_536
const longestRecordBytes = 16_384
const handshakeRecord = 22
const clientHelloMessage = 1
const serverNameExtension = 0
const alpnExtension = 16

const more: HelloDecision = { t: 'more' }
const notTls: HelloDecision = { t: 'notTls' }

/** The hello may be cut into several records; all must be handshake records. */
export function readClientHello(bytes: Uint8Array): HelloDecision {
  const parts: Uint8Array[] = []
  let have = 0
  let need = 4
  for (let at = 0; have < need;) {
    if (at >= bytes.length) return more
    if (bytes[at] !== handshakeRecord) return notTls
    if (at + 1 < bytes.length && bytes[at + 1] !== 3) return notTls
    if (at + 5 > bytes.length) return more
    const length = ((bytes[at + 3] ?? 0) << 8) | (bytes[at + 4] ?? 0)
    if (length === 0 || length > longestRecordBytes) return notTls
    const part = bytes.subarray(at + 5, at + 5 + length)
    parts.push(part)
    have += part.length
    if (need === 4 && have >= 4) {
      const head = Buffer.concat(parts)
      if (head[0] !== clientHelloMessage) return notTls
      need = 4 + (((head[1] ?? 0) << 16) | ((head[2] ?? 0) << 8) | (head[3] ?? 0))
      if (need > longestHelloBytes) return notTls
    } else if (have > 0 && parts[0]?.[0] !== clientHelloMessage) return notTls
    if (have < need && part.length < length) return more
    at += 5 + length
  }
  const message = Buffer.concat(parts)
  return readBody(new Reader(message.subarray(4, need)))
}

function readBody(reader: Reader): HelloDecision {
  reader.skip(2 + 32)
  reader.take(reader.number(1))
  reader.take(reader.number(2))
  reader.take(reader.number(1))
  if (reader.isBroken) return notTls
  // Without extensions a hello ends here.
  if (reader.left === 0) return { t: 'hello', hello: { alpn: [] } }
  const extensions = new Reader(reader.take(reader.number(2)))
  if (reader.isBroken || reader.left !== 0) return notTls
  let serverName: string | undefined
  let alpn: readonly string[] = []
  const seen = new Set<number>()
  while (extensions.left > 0) {
    const kind = extensions.number(2)
    const body = extensions.take(extensions.number(2))
    // Twice the same could be read in two ways (RFC 8446, 4.2).
    if (extensions.isBroken || seen.has(kind)) return notTls
    seen.add(kind)
    if (kind === serverNameExtension) serverName = readServerName(body)
    if (kind === alpnExtension) alpn = readProtocols(body)
  }
  return { t: 'hello', hello: { ...(serverName !== undefined && { serverName }), alpn } }
}

const hostName = /^(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/

function readServerName(body: Uint8Array): string | undefined {
  const list = new Reader(body)
  const names = new Reader(list.take(list.number(2)))
  if (list.isBroken || list.left !== 0) return undefined
  const kind = names.number(1)
  const name = names.take(names.number(2))
  // RFC 6066, 3: one name of each kind, and there is one kind.
  if (names.isBroken || names.left !== 0 || kind !== 0 || name.length > 254) return undefined
  const text = Buffer.from(name).toString('latin1').toLowerCase().replace(/\.$/, '')
  return hostName.test(text) ? text : undefined
}

function readProtocols(body: Uint8Array): readonly string[] {
  const list = new Reader(body)
  const names = new Reader(list.take(list.number(2)))
  const found: string[] = []
  while (names.left > 0 && found.length < 32) {
    const name = names.take(names.number(1))
    if (names.isBroken || name.length === 0) return []
    found.push(Buffer.from(name).toString('latin1'))
  }
  return list.isBroken ? [] : found
}

/** Reads past the end give zeroes and are remembered. */
class Reader {
  readonly #bytes: Uint8Array
  #at = 0
  isBroken = false

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  skip(length: number): void {
    this.take(length)
  }

  take(length: number): Uint8Array {
    if (length > this.left) this.isBroken = true
    const from = this.#at
    this.#at = Math.min(from + length, this.#bytes.length)
    return this.#bytes.subarray(from, this.#at)
  }

  number(length: number): number {
    let value = 0
    const bytes = this.take(length)
    for (const byte of bytes) value = value * 256 + byte
    return value
  }
}
