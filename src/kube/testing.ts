// An API server for tests, on loopback: real HTTP, real lists in pages, watches, resource versions that are forgotten, conflicts and
// server-side apply as far as tests of rooms need it. Product code never imports this. What only a real one can show is in test/kube/.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import type { KubeObject, ResourceType } from './api.ts'
import { KubeClient, type KubeClientOptions } from './client.ts'
import type { KubeConnection } from './connection.ts'

export interface HistoryEntry {
  readonly version: number
  readonly collection: string
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'
  readonly object: KubeObject
  /** Before it: what left a selector is told as deleted. */
  readonly before?: KubeObject
}

interface Watcher {
  readonly collection: string
  readonly matches: (object: KubeObject) => boolean
  readonly show: (object: KubeObject) => unknown
  readonly response: ServerResponse
}

export interface SeenRequest {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  readonly body: unknown
}

/** Undefined: answer as a server would. `reset` cuts the connection without an answer. */
export type Fault = 'reset' | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: string } | undefined

export const podType: ResourceType = { group: '', version: 'v1', plural: 'pods', kind: 'Pod', namespaced: true }
export const namespaceType: ResourceType = { group: '', version: 'v1', plural: 'namespaces', kind: 'Namespace', namespaced: false }
export const leaseType: ResourceType = { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', kind: 'Lease', namespaced: true }
export const crdType: ResourceType = {
  group: 'apiextensions.k8s.io', version: 'v1', plural: 'customresourcedefinitions', kind: 'CustomResourceDefinition', namespaced: false,
}

type Draft = { metadata: { name: string; namespace?: string; [field: string]: unknown }; [field: string]: unknown }

const collectionOf = ({ group, plural }: Pick<ResourceType, 'group' | 'plural'>): string => `${group}/${plural}`
const keyOf = (object: { metadata: { namespace?: string; name: string } }): string => `${object.metadata.namespace ?? ''}/${object.metadata.name}`

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** RFC 7386, which is near enough to apply for what tests ask. */
function merged(into: unknown, patch: unknown): unknown {
  if (!isRecord(patch)) return patch
  const result: Record<string, unknown> = isRecord(into) ? { ...into } : {}
  for (const [field, value] of Object.entries(patch)) {
    if (value === null) delete result[field]
    else result[field] = merged(result[field], value)
  }
  return result
}

function selector(query: URLSearchParams): (object: KubeObject) => boolean {
  const terms = (text: string | null): [string, string, boolean][] => (text ?? '').split(',').filter((term) => term !== '').map((term) => {
    const [, name = '', not = '', value = ''] = /^([^=!]+)(!?)={1,2}(.*)$/.exec(term) ?? [undefined, term]
    return [name, value, not !== '']
  })
  const labels = terms(query.get('labelSelector'))
  const fields = terms(query.get('fieldSelector'))
  return (object) =>
    labels.every(([name, value, isNot]) => (object.metadata.labels?.[name] === value) !== isNot) &&
    fields.every(([path, value, isNot]) => {
      const found = path.split('.').reduce<unknown>((at, part) => (isRecord(at) ? at[part] : undefined), object)
      return ((found ?? '') === value) !== isNot
    })
}

export class FakeKubeApi {
  readonly seen: SeenRequest[] = []
  /** TokenReviews of these tokens say so; all others are not authenticated. */
  readonly tokens = new Map<string, Record<string, unknown>>()
  /** Looked at before every answer. */
  fault: (request: SeenRequest) => Fault = () => undefined
  /** Answers wait for it. */
  hold: (request: SeenRequest) => Promise<void> | undefined = () => undefined
  /** What a watch of something forgotten gets: a status, or an event in a stream. */
  goneAs: 'status' | 'event' = 'event'
  url = ''
  readonly #types = new Map<string, ResourceType[]>()
  readonly #objects = new Map<string, Map<string, KubeObject>>()
  readonly #snapshots = new Map<number, { version: number; items: KubeObject[] }>()
  readonly #watchers = new Set<Watcher>()
  readonly #sockets = new Set<Socket>()
  #history: HistoryEntry[] = []
  #version = 100
  #forgotten = 100
  #snapshot = 0
  #server: Server | undefined

  constructor(types: readonly ResourceType[] = [podType, namespaceType, leaseType, crdType]) {
    for (const type of types) this.define(type)
  }

  async start(port = 0): Promise<this> {
    const server = createServer((request, response) => void this.#answer(request, response).catch((error: unknown) => {
      if (!response.headersSent) this.#status(response, 500, 'InternalError', String(error))
    }))
    server.on('connection', (socket) => {
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
    })
    await new Promise<void>((done) => server.listen(port, '127.0.0.1', done))
    this.#server = server
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    return this
  }

  get port(): number {
    return Number(new URL(this.url).port)
  }

  /** Everything is kept; `start(port)` serves it again. */
  async stop(): Promise<void> {
    this.cutConnections()
    await new Promise((done) => this.#server?.close(done) ?? done(undefined))
  }

  connection(token?: string): KubeConnection {
    const material = { isVerified: true }
    return {
      server: this.url, namespace: 'default', origin: 'test',
      tls: async () => material, authorization: async () => (token === undefined ? undefined : `Bearer ${token}`),
    }
  }

  client(options: KubeClientOptions = {}): KubeClient {
    return new KubeClient(this.connection(), options)
  }

  /** From now on the server knows the kind. */
  define(type: ResourceType): void {
    const id = collectionOf(type)
    const known = (this.#types.get(id) ?? []).filter(({ version }) => version !== type.version)
    this.#types.set(id, [...known, type])
    if (!this.#objects.has(id)) this.#objects.set(id, new Map())
  }

  /** The kind goes with all its objects, told as deleted; its watches end. */
  undefine(type: ResourceType): void {
    for (const object of this.list(type)) this.remove(type, object.metadata.name, object.metadata.namespace)
    this.#types.delete(collectionOf(type))
    for (const watcher of this.#watchers) if (watcher.collection === collectionOf(type)) watcher.response.end()
  }

  list(type: ResourceType): KubeObject[] {
    return [...(this.#objects.get(collectionOf(type))?.values() ?? [])]
  }

  get(type: ResourceType, name: string, namespace?: string): KubeObject | undefined {
    return this.#objects.get(collectionOf(type))?.get(keyOf({ metadata: { name, ...(namespace !== undefined && { namespace }) } }))
  }

  /** Creates or replaces, as kubectl would. */
  put(type: ResourceType, draft: Draft): KubeObject {
    const collection = collectionOf(type)
    const objects = this.#objects.get(collection) ?? new Map<string, KubeObject>()
    this.#objects.set(collection, objects)
    const key = keyOf(draft)
    const before = objects.get(key)
    this.#version += 1
    const isSpecSame = before !== undefined && JSON.stringify(before.spec) === JSON.stringify(draft['spec'])
    const generation = (before?.metadata.generation ?? 0) + (isSpecSame ? 0 : 1)
    const object = {
      ...draft, apiVersion: type.group === '' ? type.version : `${type.group}/${type.version}`, kind: type.kind,
      metadata: {
        ...draft.metadata, uid: before?.metadata.uid ?? draft.metadata['uid'] ?? `uid-${this.#version}`, resourceVersion: String(this.#version), generation,
        creationTimestamp: before?.metadata.creationTimestamp ?? new Date().toISOString(),
      },
    } as unknown as KubeObject
    objects.set(key, object)
    this.#record({ version: this.#version, collection, type: before ? 'MODIFIED' : 'ADDED', object, ...(before && { before }) })
    return object
  }

  remove(type: ResourceType, name: string, namespace?: string): boolean {
    const collection = collectionOf(type)
    const before = this.get(type, name, namespace)
    if (!before) return false
    this.#objects.get(collection)?.delete(keyOf(before))
    this.#version += 1
    const object = { ...before, metadata: { ...before.metadata, resourceVersion: String(this.#version) } }
    this.#record({ version: this.#version, collection, type: 'DELETED', object, before })
    return true
  }

  /** Forgets all that was before: watches and pages that go on from there are Gone. */
  compact(): void {
    this.#history = []
    this.#forgotten = this.#version
    this.#snapshots.clear()
  }

  /** Watches under way learn the present version. */
  bookmark(): void {
    for (const { response } of this.#watchers) {
      response.write(`${JSON.stringify({ type: 'BOOKMARK', object: { metadata: { resourceVersion: String(this.#version) } } })}\n`)
    }
  }

  /** Watches under way get these bytes. */
  tellWatches(text: string): void {
    for (const { response } of this.#watchers) response.write(text)
  }

  endWatches(): void {
    for (const { response } of this.#watchers) response.end()
  }

  cutConnections(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  get connections(): number {
    return this.#sockets.size
  }

  get watches(): number {
    return this.#watchers.size
  }

  #record(entry: HistoryEntry): void {
    this.#history.push(entry)
    for (const watcher of this.#watchers) if (watcher.collection === entry.collection) this.#tell(watcher, entry)
  }

  #tell(watcher: Watcher, { type, object, before }: HistoryEntry): void {
    const is = type !== 'DELETED' && watcher.matches(object)
    const was = before !== undefined && watcher.matches(before)
    if (!is && !was) return
    const told = is ? (was ? 'MODIFIED' : 'ADDED') : 'DELETED'
    watcher.response.write(`${JSON.stringify({ type: told, object: watcher.show(object) })}\n`)
  }

  #status(response: ServerResponse, code: number, reason: string, message: string, headers: Record<string, string> = {}): void {
    response.writeHead(code, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify({ kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code }))
  }

  #send(response: ServerResponse, value: unknown, status = 200): void {
    response.writeHead(status, { 'content-type': 'application/json' })
    response.end(JSON.stringify(value))
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString('utf8')
    const url = new URL(request.url ?? '/', this.url)
    const seen: SeenRequest = {
      method: request.method ?? 'GET', path: url.pathname, query: url.searchParams, headers: request.headers, body: text === '' ? undefined : JSON.parse(text),
    }
    this.seen.push(seen)
    await this.hold(seen)
    const fault = this.fault(seen)
    if (fault === 'reset') return void request.socket.destroy()
    if (fault) return void response.writeHead(fault.status, fault.headers).end(fault.body ?? '')
    if (seen.path === '/apis/authentication.k8s.io/v1/tokenreviews') return this.#review(seen, response)
    const parts = seen.path.split('/').filter((part) => part !== '').map(decodeURIComponent)
    const group = parts[0] === 'api' ? '' : (parts[1] ?? '')
    const rest = parts.slice(parts[0] === 'api' ? 1 : 2)
    const [version = ''] = rest
    const hasNamespace = rest[1] === 'namespaces' && rest.length > 3
    const namespace = hasNamespace ? rest[2] : undefined
    const [plural = '', name, subresource] = rest.slice(hasNamespace ? 3 : 1)
    const type = this.#types.get(collectionOf({ group, plural }))?.find((known) => known.version === version)
    if (!type) return this.#status(response, 404, 'NotFound', 'the server could not find the requested resource')
    if (name === undefined && seen.method === 'GET') {
      return seen.query.get('watch') === 'true' ? this.#watch(type, namespace, seen, response) : this.#page(type, namespace, seen, response)
    }
    return this.#object(type, { namespace, name, subresource }, seen, response)
  }

  #view(type: ResourceType, namespace: string | undefined, seen: SeenRequest): Pick<Watcher, 'matches' | 'show'> {
    const isSelected = selector(seen.query)
    const isMetadataOnly = seen.headers.accept?.includes('as=PartialObjectMetadata') === true
    const apiVersion = type.group === '' ? type.version : `${type.group}/${type.version}`
    return {
      matches: (object) => (namespace === undefined || object.metadata.namespace === namespace) && isSelected(object),
      show: (object) => isMetadataOnly
        ? { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: object.metadata }
        : { ...object, apiVersion, kind: type.kind },
    }
  }

  #page(type: ResourceType, namespace: string | undefined, seen: SeenRequest, response: ServerResponse): void {
    const { matches, show } = this.#view(type, namespace, seen)
    const limit = Number(seen.query.get('limit') ?? 0)
    const [id, from] = (seen.query.get('continue') ?? '0:0').split(':').map(Number) as [number, number]
    if (id !== 0 && !this.#snapshots.has(id)) return this.#status(response, 410, 'Expired', 'The provided continue parameter is too old')
    const { version, items } = this.#snapshots.get(id) ??
      { version: this.#version, items: this.list(type).filter(matches).sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1)) }
    const end = limit === 0 ? items.length : from + limit
    const metadata: Record<string, unknown> = { resourceVersion: String(version) }
    if (end < items.length) {
      const next = id === 0 ? (this.#snapshot += 1) : id
      this.#snapshots.set(next, { version, items })
      metadata['continue'] = `${next}:${end}`
    }
    // As real ones do for their own kinds: items do not say what they are.
    const bare = items.slice(from, end).map((item) => {
      const { kind: _kind, apiVersion: _apiVersion, ...fields } = show(item) as Record<string, unknown>
      return fields
    })
    this.#send(response, { kind: `${type.kind}List`, apiVersion: type.group === '' ? type.version : `${type.group}/${type.version}`, metadata, items: bare })
  }

  #watch(type: ResourceType, namespace: string | undefined, seen: SeenRequest, response: ServerResponse): void {
    const from = Number(seen.query.get('resourceVersion') ?? 0)
    if (from < this.#forgotten && this.goneAs === 'status') return this.#status(response, 410, 'Expired', 'too old resource version')
    response.writeHead(200, { 'content-type': 'application/json' })
    response.flushHeaders()
    if (from < this.#forgotten) {
      const status = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message: 'too old resource version', reason: 'Expired', code: 410 }
      return void response.end(`${JSON.stringify({ type: 'ERROR', object: status })}\n`)
    }
    const watcher: Watcher = { collection: collectionOf(type), response, ...this.#view(type, namespace, seen) }
    for (const entry of this.#history) if (entry.version > from && entry.collection === watcher.collection) this.#tell(watcher, entry)
    this.#watchers.add(watcher)
    const seconds = Number(seen.query.get('timeoutSeconds') ?? 0)
    const timer = seconds > 0 ? setTimeout(() => response.end(), seconds * 1_000).unref() : undefined
    response.once('close', () => {
      clearTimeout(timer)
      this.#watchers.delete(watcher)
    })
  }

  #object(type: ResourceType, at: { namespace: string | undefined; name: string | undefined; subresource: string | undefined }, seen: SeenRequest, response: ServerResponse): void {
    const body = isRecord(seen.body) ? seen.body : {}
    const metadata = isRecord(body['metadata']) ? body['metadata'] : {}
    const name = at.name ?? (typeof metadata['name'] === 'string' ? metadata['name'] : `${String(metadata['generateName'])}${this.#version}`)
    const before = this.get(type, name, at.namespace)
    const isApply = seen.method === 'PATCH' && seen.headers['content-type']?.includes('apply') === true
    if (seen.method === 'POST' && before) return this.#status(response, 409, 'AlreadyExists', `${type.plural} "${name}" already exists`)
    if (!before && seen.method !== 'POST' && !(isApply && at.subresource === undefined)) return this.#status(response, 404, 'NotFound', `${type.plural} "${name}" not found`)
    if (seen.method === 'GET') return this.#send(response, before)
    if (seen.method === 'DELETE') {
      this.remove(type, name, at.namespace)
      return this.#send(response, { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success' })
    }
    const wanted = metadata['resourceVersion']
    if (before && typeof wanted === 'string' && wanted !== before.metadata.resourceVersion) {
      return this.#status(response, 409, 'Conflict', `Operation cannot be fulfilled on ${type.plural} "${name}": the object has been modified`)
    }
    const asked = (seen.method === 'PATCH' ? merged(before ?? {}, body) : body) as Draft
    // The status is written through its subresource alone, and that writes nothing else.
    const drafted = before && at.subresource === 'status' ? { ...before, status: asked['status'] } : { ...asked, ...(before && { status: before.status }) }
    const draft = { ...drafted, metadata: { ...drafted.metadata, name, ...(at.namespace !== undefined && { namespace: at.namespace }) } }
    return this.#send(response, this.put(type, draft as Draft), before ? 200 : 201)
  }

  #review(seen: SeenRequest, response: ServerResponse): void {
    const spec = isRecord(seen.body) && isRecord(seen.body['spec']) ? seen.body['spec'] : {}
    const status = this.tokens.get(String(spec['token'])) ?? { authenticated: false, error: 'invalid bearer token' }
    this.#send(response, { kind: 'TokenReview', apiVersion: 'authentication.k8s.io/v1', metadata: {}, spec, status }, 201)
  }
}
