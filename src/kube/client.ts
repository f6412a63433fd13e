// Calls to one API server, as JSON. It waits where the server asks for patience (429 and 503 with Retry-After), and repeats reads
// whose connection broke; everything else is the caller's to repeat. It keeps nothing of what it reads.
import { setTimeout as wait } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import { decodeLines } from '../core/ndjson.ts'
import { fieldManager } from '../model/kubernetes-names.ts'
import { apiError, isGone, isNotFound, kubeReason, unreachable } from './answers.ts'
import type { CallOptions, KubeApi, KubeObject, PatchType, ResourceType } from './api.ts'
import { resourcePath } from './api.ts'
import { loadConnection, type ConnectionOptions, type KubeConnection } from './connection.ts'
import { HttpTransport, readBody, refusalOf, transportError, type HttpRequest } from './http.ts'

export interface ListPage {
  readonly items: readonly KubeObject[]
  readonly resourceVersion: string
  /** To be sent along for the next page; absent on the last. */
  readonly next?: string
}

export interface PageOptions extends CallOptions {
  /** Only what is in `metadata` comes. */
  readonly isMetadataOnly?: boolean
}

export interface EventStreamOptions {
  readonly query: Readonly<Record<string, string | number | boolean | undefined>>
  readonly signal: AbortSignal
  readonly isMetadataOnly?: boolean
  /** The stream is ended when nothing came for so long. */
  readonly silenceMs: number
  /** What it throws ends the stream, and is what `watch` rejects with. */
  readonly onEvent: (event: unknown) => void
}

/** What a list-watch needs of a client. */
export interface WatchApi {
  page(path: string, options: PageOptions): Promise<ListPage>
  /** Resolves when the server ends the stream. Rejects with KUBE_API, KUBE_UNREACHABLE, or BAD_MESSAGE for what is no event. */
  watch(path: string, options: EventStreamOptions): Promise<void>
}

export interface KubeClientOptions {
  /** Called once for each answer, or failure with status 0. Paths are not told: they would make a metric of every object. */
  readonly onAnswer?: (method: HttpRequest['method'] | 'WATCH', status: number, durationMs: number) => void
}

const defaultTimeoutMs = 30_000
/** Objects are bounded by etcd at about 1.5 MiB; a line of a watch is one object. */
const largestLineBytes = 8 << 20
const largestAnswerBytes = 64 << 20
const pageLimit = 500
const patienceAttempts = 6

const json = 'application/json'
const metadataAccept = (kind: string): string => `application/json;as=${kind};g=meta.k8s.io;v=v1,application/json`
const patchTypes: Readonly<Record<PatchType, string>> = {
  merge: 'application/merge-patch+json',
  strategic: 'application/strategic-merge-patch+json',
  json: 'application/json-patch+json',
  // JSON is YAML, and JSON is all that older servers' decoders have in common.
  apply: 'application/apply-patch+yaml',
}

type Query = NonNullable<CallOptions['query']>
type Method = HttpRequest['method']

interface Body {
  readonly type: string
  readonly value: unknown
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export class KubeClient implements KubeApi, WatchApi {
  readonly #transport: HttpTransport
  readonly #options: KubeClientOptions
  /** For people: where the connection's settings came from. */
  readonly origin: string
  readonly server: string
  /** Of the context or the pod. */
  readonly namespace: string

  constructor(connection: KubeConnection, options: KubeClientOptions = {}) {
    this.#transport = new HttpTransport(connection)
    this.#options = options
    this.origin = connection.origin
    this.server = connection.server
    this.namespace = connection.namespace
  }

  /** Rejects with BAD_CONFIG where there is no way to an API server; does not call it yet. */
  static async load(options: ConnectionOptions & KubeClientOptions): Promise<KubeClient> {
    return new KubeClient(await loadConnection(options), options)
  }

  /** Ends calls and watches under way with CLOSED or KUBE_UNREACHABLE. */
  close(): void {
    this.#transport.close()
  }

  get(path: string, options: CallOptions = {}): Promise<KubeObject> {
    return this.#object('GET', path, options.query ?? {}, undefined, options)
  }

  create(path: string, object: unknown, options: CallOptions = {}): Promise<KubeObject> {
    return this.#object('POST', path, { fieldManager, ...options.query }, { type: json, value: object }, options)
  }

  replace(path: string, object: unknown, options: CallOptions = {}): Promise<KubeObject> {
    return this.#object('PUT', path, { fieldManager, ...options.query }, { type: json, value: object }, options)
  }

  patch(path: string, patch: unknown, type: PatchType, options: CallOptions = {}): Promise<KubeObject> {
    const query = { fieldManager, ...(type === 'apply' && { force: true }), ...options.query }
    return this.#object('PATCH', path, query, { type: patchTypes[type], value: patch }, options)
  }

  apply(
    type: ResourceType, object: KubeObject, options: CallOptions & { readonly subresource?: string; readonly force?: boolean } = {},
  ): Promise<KubeObject> {
    const { namespace, name } = object.metadata
    const path = resourcePath(type, {
      ...(namespace !== undefined && { namespace }), name, ...(options.subresource !== undefined && { subresource: options.subresource }),
    })
    return this.patch(path, object, 'apply', { ...options, query: { force: options.force ?? true, ...options.query } })
  }

  async delete(path: string, options: CallOptions & { readonly propagation?: 'Foreground' | 'Background' | 'Orphan' } = {}): Promise<void> {
    const query = { ...(options.propagation !== undefined && { propagationPolicy: options.propagation }), ...options.query }
    try {
      await this.#call('DELETE', path, query, undefined, options)
    } catch (error) {
      if (!isNotFound(error)) throw error
    }
  }

  async list(path: string, options: CallOptions = {}): Promise<{ items: readonly KubeObject[]; resourceVersion: string }> {
    const items: KubeObject[] = []
    let next: string | undefined
    for (;;) {
      let page: ListPage
      try {
        page = await this.page(path, { ...options, query: { ...options.query, ...(next !== undefined && { continue: next }) } })
      } catch (error) {
        // The pages waited longer than the server remembers. Without a limit it is one answer, of one moment.
        if (next === undefined || !isGone(error)) throw error
        return this.page(path, { ...options, query: { ...options.query, limit: 0 } })
      }
      items.push(...page.items)
      if (page.next === undefined) return { items, resourceVersion: page.resourceVersion }
      next = page.next
    }
  }

  async page(path: string, options: PageOptions): Promise<ListPage> {
    const accept = options.isMetadataOnly === true ? metadataAccept('PartialObjectMetadataList') : json
    let limit = typeof options.query?.['limit'] === 'number' ? options.query['limit'] : pageLimit
    for (;;) {
      try {
        const query = { ...options.query, limit: limit === 0 ? undefined : limit }
        return readPage(path, await this.#call('GET', path, query, undefined, options, accept))
      } catch (error) {
        if (kubeReason(error) !== 'AnswerTooLarge' || limit <= 1) throw error
        limit = Math.ceil(limit / 8)
      }
    }
  }

  async watch(path: string, options: EventStreamOptions): Promise<void> {
    const fromMs = performance.now()
    const ask: HttpRequest = {
      method: 'GET', path, query: { ...options.query, watch: true }, signal: options.signal, silenceMs: options.silenceMs, isStream: true,
      accept: options.isMetadataOnly === true ? metadataAccept('PartialObjectMetadata') : json,
    }
    const answer = await this.#transport.send(ask).catch((error: unknown) => {
      this.#options.onAnswer?.('WATCH', 0, performance.now() - fromMs)
      throw error
    })
    this.#options.onAnswer?.('WATCH', answer.status, performance.now() - fromMs)
    if (answer.status !== 200) throw await refusalOf(ask, answer)
    const feed = decodeLines(largestLineBytes, options.onEvent, (error) => {
      throw error
    })
    let thrown: { readonly error: unknown } | undefined
    try {
      for await (const chunk of answer.body as AsyncIterable<Buffer>) {
        try {
          feed(chunk)
        } catch (error) {
          thrown = { error }
          break
        }
      }
    } catch (cause) {
      throw transportError(ask, cause)
    }
    if (thrown) throw thrown.error
  }

  async #object(method: Method, path: string, query: Query, body: Body | undefined, options: CallOptions): Promise<KubeObject> {
    const answer = await this.#call(method, path, query, body, options)
    // The list of what the core group has is the one answer that does not say its own version.
    const value = isRecord(answer) && answer['kind'] === 'APIResourceList' ? { apiVersion: 'v1', ...answer } : answer
    if (!isRecord(value) || typeof value['kind'] !== 'string' || typeof value['apiVersion'] !== 'string') throw notKubernetes(method, path)
    // Answers of a few calls, as TokenReview, have metadata without a name; it is there all the same.
    return (isRecord(value['metadata']) ? value : { ...value, metadata: {} }) as unknown as KubeObject
  }

  /** The parsed body of a success. */
  async #call(
    method: Method, path: string, query: Query, body: Body | undefined, options: CallOptions, accept = json,
  ): Promise<unknown> {
    const deadlineMs = performance.now() + (options.timeoutMs ?? defaultTimeoutMs)
    const timeout = AbortSignal.timeout(options.timeoutMs ?? defaultTimeoutMs)
    const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout
    const ask: HttpRequest = {
      method, path, query, accept, signal, silenceMs: 0,
      ...(body && { body: { type: body.type, text: JSON.stringify(body.value) } }),
    }
    for (let attempt = 1; ; attempt += 1) {
      const { value, again } = await this.#attempt(ask)
      if (!again) return value
      const restMs = deadlineMs - performance.now()
      // A wait that outlasts the caller's patience would only make the same answer late.
      if (attempt >= patienceAttempts || again.waitMs >= restMs) throw again.error
      await wait(again.waitMs * (1 + Math.random() / 4), undefined, { signal }).catch((cause: unknown) => {
        throw transportError(ask, cause)
      })
    }
  }

  async #attempt(ask: HttpRequest): Promise<{ value?: unknown; again?: { readonly error: MeshError; readonly waitMs: number } }> {
    const fromMs = performance.now()
    let status = 0
    try {
      const answer = await this.#transport.send(ask)
      status = answer.status
      if (status >= 200 && status < 300) return { value: parseBody(ask, await readBody(ask, answer, largestAnswerBytes)) }
      const error = await refusalOf(ask, answer)
      if (answer.retryAfterMs === undefined || (status !== 429 && status < 500)) throw error
      return { again: { error, waitMs: Math.max(100, answer.retryAfterMs) } }
    } catch (error) {
      // A kept connection may have been closed as we used it; reading twice does no harm.
      const mayRepeat = ask.method === 'GET' && !ask.signal.aborted
      if (mayRepeat && error instanceof MeshError && isBroken(error)) return { again: { error, waitMs: 50 } }
      throw error
    } finally {
      this.#options.onAnswer?.(ask.method, status, performance.now() - fromMs)
    }
  }
}

/** Whether a connection that was made broke: one that cannot be made is no reason to try again at once. */
function isBroken(error: MeshError): boolean {
  const code = error.code === 'KUBE_UNREACHABLE' ? (error.cause as { code?: unknown } | undefined)?.code : undefined
  return code === 'UND_ERR_SOCKET' || code === 'ECONNRESET' || code === 'EPIPE'
}

function notKubernetes(method: string, path: string): MeshError {
  return unreachable(method, path, 'who answers is no Kubernetes API server')
}

function parseBody({ method, path }: HttpRequest, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw notKubernetes(method, path)
  }
}

/** Items of lists do not say what they are; the list does. */
function readPage(path: string, value: unknown): ListPage {
  if (!isRecord(value) || !isRecord(value['metadata']) || typeof value['kind'] !== 'string') throw notKubernetes('GET', path)
  const { metadata, items, apiVersion, kind } = value
  const { resourceVersion } = metadata
  const next = metadata['continue']
  if (typeof resourceVersion !== 'string') throw apiError('GET', path, 200, 'NoResourceVersion', 'the list says no resourceVersion')
  if (items !== undefined && items !== null && !Array.isArray(items)) throw notKubernetes('GET', path)
  const itemKind = kind.endsWith('List') ? kind.slice(0, -4) : kind
  const objects = (items ?? []).flatMap((item: unknown) => {
    if (!isRecord(item) || !isRecord(item['metadata']) || typeof item['metadata']['name'] !== 'string') return []
    return [{ apiVersion, kind: itemKind, ...item } as unknown as KubeObject]
  })
  return { items: objects, resourceVersion, ...(typeof next === 'string' && next !== '' && { next }) }
}
