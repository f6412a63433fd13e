// HTTP to one API server: connections, credentials, time limits and bounds of answers. It does not know what is asked. Neither a
// token nor a header ever gets into an error or a log.
import { Agent } from 'undici'
import type { Dispatcher } from 'undici'
import { describeError, MeshError } from '../core/errors.ts'
import type { KubeConnection, TlsMaterial } from './connection.ts'
import { apiError, refusal, unreachable } from './answers.ts'

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly query: Readonly<Record<string, string | number | boolean | undefined>>
  readonly accept: string
  readonly body?: { readonly type: string; readonly text: string }
  /** Ends everything; already with the caller's own reasons. */
  readonly signal: AbortSignal
  /** Longest time without a byte of the answer; 0 for none but the signal's. */
  readonly silenceMs: number
  /** Its answer goes on for minutes: it has a connection of its own, and waits for no other. */
  readonly isStream?: boolean
}

/** What errors say of a request. */
type Asked = Pick<HttpRequest, 'method' | 'path' | 'signal'>

export interface HttpAnswer {
  readonly status: number
  /** Of a Retry-After in seconds. */
  readonly retryAfterMs: number | undefined
  readonly body: Dispatcher.ResponseData['body']
}

const largestRefusalBytes = 256 << 10
/** What is asked beyond that waits for a connection. */
const mostConnections = 24

/** Connections of streams are as many as there are streams, those of calls are bounded. */
interface Agents {
  readonly material: TlsMaterial
  readonly streams: Agent
  readonly calls: Agent
}

/** `.` and `..` would be another path for the server, or for what is before it. */
function checkPath(path: string): void {
  const segments = path.split('/')
  if (!path.startsWith('/') || /[?#\s\\]/.test(path) || segments.some((segment) => /^(\.|%2e){1,2}$/i.test(segment))) {
    throw apiError('CALL', path.slice(0, 200), 400, 'BadRequest', 'this is not the path of an object')
  }
}

function target(prefix: string, { path, query }: HttpRequest): string {
  const search = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) if (value !== undefined) search.set(name, String(value))
  return search.size === 0 ? `${prefix}${path}` : `${prefix}${path}?${search}`
}

export class HttpTransport {
  readonly #connection: KubeConnection
  readonly #origin: string
  readonly #prefix: string
  #agents: Agents | undefined
  #isClosed = false

  constructor(connection: KubeConnection) {
    this.#connection = connection
    const url = new URL(connection.server)
    this.#origin = url.origin
    this.#prefix = url.pathname === '/' ? '' : url.pathname
  }

  /**
   * Sends once, and a second time where the token was refused and there is a newer one. Any status is an answer; the caller must read
   * the body to its end or destroy it. Rejects with KUBE_UNREACHABLE, and with what the credentials reject with.
   */
  async send(ask: HttpRequest): Promise<HttpAnswer> {
    checkPath(ask.path)
    const used = await this.#connection.authorization(false)
    const answer = await this.#once(ask, used)
    if (answer.status !== 401) return answer
    const newer = await this.#connection.authorization(true)
    if (newer === used) return answer
    answer.body.destroy()
    return this.#once(ask, newer)
  }

  close(): void {
    this.#isClosed = true
    void this.#agents?.calls.destroy()
    void this.#agents?.streams.destroy()
    this.#agents = undefined
  }

  /** To be used before anything else is awaited: the next call may replace and close it. */
  #dispatcher(material: TlsMaterial, isStream: boolean): Agent {
    if (this.#isClosed) throw new MeshError('CLOSED', 'the client of the Kubernetes API is closed')
    if (this.#agents?.material !== material) {
      // Connections with the old roots or certificate finish what they carry.
      void this.#agents?.calls.close()
      void this.#agents?.streams.close()
      this.#agents = { material, calls: newAgent(material, mostConnections), streams: newAgent(material, undefined) }
    }
    return isStream ? this.#agents.streams : this.#agents.calls
  }

  async #once(ask: HttpRequest, authorization: string | undefined): Promise<HttpAnswer> {
    const material = await this.#connection.tls()
    try {
      const { statusCode, headers, body } = await this.#dispatcher(material, ask.isStream === true).request({
        origin: this.#origin,
        path: target(this.#prefix, ask),
        method: ask.method,
        signal: ask.signal,
        bodyTimeout: ask.silenceMs,
        headersTimeout: ask.silenceMs,
        headers: {
          accept: ask.accept,
          'user-agent': 'sidestep',
          ...(authorization !== undefined && { authorization }),
          ...(ask.body && { 'content-type': ask.body.type }),
        },
        ...(ask.body && { body: ask.body.text }),
      })
      // Whoever reads it is told; a body that nobody reads to its end must not end the process.
      body.on('error', () => {})
      return { status: statusCode, retryAfterMs: retryAfter(headers['retry-after']), body }
    } catch (cause) {
      throw transportError(ask, cause)
    }
  }
}

function newAgent({ ca, cert, key, servername, isVerified }: TlsMaterial, connections: number | undefined): Agent {
  return new Agent({
    pipelining: 1, keepAliveTimeout: 30_000, maxHeaderSize: 32_768, bodyTimeout: 0, headersTimeout: 0,
    ...(connections !== undefined && { connections }),
    connect: {
      timeout: 10_000, keepAlive: true, keepAliveInitialDelay: 15_000, rejectUnauthorized: isVerified,
      ...(ca !== undefined && { ca }), ...(cert !== undefined && { cert, key }), ...(servername !== undefined && { servername }),
    },
  })
}

function retryAfter(header: string | string[] | undefined): number | undefined {
  if (typeof header !== 'string' || !/^\d{1,6}$/.test(header)) return undefined
  return Number(header) * 1_000
}

/** KUBE_UNREACHABLE, or CLOSED where our own caller ended it, of whatever broke while sending or reading. */
export function transportError({ method, path, signal }: Asked, cause: unknown): MeshError {
  if (cause instanceof MeshError) return cause
  if (signal.aborted) {
    if (signal.reason instanceof MeshError) return signal.reason
    const isTimeout = signal.reason instanceof DOMException && signal.reason.name === 'TimeoutError'
    if (!isTimeout) return new MeshError('CLOSED', `${method} ${path}: was called off`)
    return unreachable(method, path, 'no answer in time')
  }
  // undici's errors and Node's say which address and why; none quotes a request.
  return unreachable(method, path, describeError(cause).slice(0, 500), cause)
}

/** The whole body. Rejects with KUBE_API (reason AnswerTooLarge), KUBE_UNREACHABLE where it breaks off. */
export async function readBody(ask: Asked, answer: HttpAnswer, largestBytes: number): Promise<string> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  try {
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      sizeBytes += chunk.length
      if (sizeBytes > largestBytes) {
        throw apiError(ask.method, ask.path, answer.status, 'AnswerTooLarge', `the answer is larger than ${largestBytes} bytes`)
      }
      chunks.push(chunk)
    }
  } catch (cause) {
    throw transportError(ask, cause)
  }
  return Buffer.concat(chunks, sizeBytes).toString('utf8')
}

/** What an answer that is no success rejects with. */
export async function refusalOf(ask: Asked, answer: HttpAnswer): Promise<MeshError> {
  let text = ''
  try {
    text = await readBody(ask, answer, largestRefusalBytes)
  } catch {
    // The status says what there is to say; its body is only for people.
  }
  return refusal(ask.method, ask.path, answer.status, text)
}
