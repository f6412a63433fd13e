import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { errorCodes, MeshError } from '../core/errors.ts'
import { isConflict, isGone, isNotFound, kubeReason, refusal } from './answers.ts'
import { resourcePath } from './api.ts'
import { KubeClient } from './client.ts'
import { FakeKubeApi, podType, type Fault } from './testing.ts'

const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function anApi(): Promise<{ api: FakeKubeApi; client: KubeClient }> {
  const api = await new FakeKubeApi().start()
  const client = api.client()
  opened.push({ close: () => api.stop() }, client)
  return { api, client }
}

const pods = resourcePath(podType, { namespace: 'shop' })
const aPod = (name: string): object => ({ apiVersion: 'v1', kind: 'Pod', metadata: { name }, spec: { nodeName: 'n1' } })

async function thrown(promise: Promise<unknown>): Promise<MeshError> {
  const error: unknown = await promise.then(() => new Error('resolved'), (reason: unknown) => reason)
  expect(error).toBeInstanceOf(MeshError)
  return error as MeshError
}

describe('the client of the Kubernetes API', () => {
  it('reads and writes objects', async () => {
    const { api, client } = await anApi()
    const made = await client.create(pods, aPod('a'))
    expect(made.metadata).toMatchObject({ name: 'a', namespace: 'shop' })
    expect(api.seen[0]?.query.get('fieldManager')).toBe('sidestep')
    expect((await client.get(`${pods}/a`)).spec).toEqual({ nodeName: 'n1' })
    await client.patch(`${pods}/a/status`, { status: { phase: 'Running' } }, 'merge')
    expect((await client.get(`${pods}/a`)).status).toEqual({ phase: 'Running' })
    const applied = await client.apply(podType, { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'b', namespace: 'shop' }, spec: {} })
    expect(applied.metadata.name).toBe('b')
    expect(api.seen.at(-1)).toMatchObject({ method: 'PATCH', path: `${pods}/b`, headers: { 'content-type': 'application/apply-patch+yaml' } })
    expect(api.seen.at(-1)?.query.get('force')).toBe('true')
    const { resourceVersion: _stale, ...metadata } = made.metadata
    await client.replace(`${pods}/a`, { ...made, metadata })
    expect(isConflict(await thrown(client.replace(`${pods}/a`, made)))).toBe(true)
    await client.delete(`${pods}/a`, { propagation: 'Foreground' })
    expect(api.seen.at(-1)?.query.get('propagationPolicy')).toBe('Foreground')
    await client.delete(`${pods}/a`)
    expect(isNotFound(await thrown(client.get(`${pods}/a`)))).toBe(true)
  })

  it('lists in pages, and says what the items are', async () => {
    const { api, client } = await anApi()
    for (let i = 0; i < 1_234; i += 1) api.put(podType, { metadata: { name: `p${i}`, namespace: 'shop' } })
    const { items, resourceVersion } = await client.list(pods)
    expect(items.length).toBe(1_234)
    expect(items[0]).toMatchObject({ apiVersion: 'v1', kind: 'Pod' })
    expect(resourceVersion).toBe('1334')
    expect(api.seen.length).toBe(3)
  })

  it('lists in one piece what the server forgets between pages', async () => {
    const { api, client } = await anApi()
    for (let i = 0; i < 600; i += 1) api.put(podType, { metadata: { name: `p${i}`, namespace: 'shop' } })
    api.fault = ({ query }): Fault => {
      if (query.has('continue')) api.compact()
      return undefined
    }
    expect((await client.list(pods)).items.length).toBe(600)
  })

  it('asks for less at once where an answer is too large', async () => {
    const { api, client } = await anApi()
    const filler = 'x'.repeat(1 << 20)
    for (let i = 0; i < 70; i += 1) api.put(podType, { metadata: { name: `p${i}`, namespace: 'shop' }, spec: { filler } })
    expect((await client.list(pods)).items.length).toBe(70)
  })

  it('waits as the server asks, whatever the verb', async () => {
    const { api, client } = await anApi()
    let left = 2
    api.fault = (): Fault => (left-- > 0 ? { status: 429, headers: { 'retry-after': '0' }, body: 'slow down' } : undefined)
    await client.create(pods, aPod('a'))
    expect(api.seen.length).toBe(3)
  })

  it('does not wait longer than its caller has time', async () => {
    const { api, client } = await anApi()
    api.fault = () => ({ status: 429, headers: { 'retry-after': '60' } })
    expect(await thrown(client.get(`${pods}/a`, { timeoutMs: 1_000 }))).toMatchObject({ code: 'KUBE_API', retry: 'always', detail: { status: 429 } })
    expect(api.seen.length).toBe(1)
  })

  it('repeats reads whose connection broke, and no writes', async () => {
    const { api, client } = await anApi()
    api.put(podType, { metadata: { name: 'a', namespace: 'shop' } })
    let left = 1
    api.fault = (): Fault => (left-- > 0 ? 'reset' : undefined)
    expect((await client.get(`${pods}/a`)).metadata.name).toBe('a')
    left = 1
    expect(await thrown(client.create(pods, aPod('b')))).toMatchObject({ code: 'KUBE_UNREACHABLE', retry: 'always' })
    expect(api.seen.filter(({ method }) => method === 'POST').length).toBe(1)
  })

  it('says what the server said', async () => {
    const { api, client } = await anApi()
    api.fault = () => ({ status: 403, body: JSON.stringify({ kind: 'Status', reason: 'Forbidden', message: 'pods is forbidden: no' }) })
    const error = await thrown(client.get(`${pods}/a`))
    expect(error).toMatchObject({ code: 'KUBE_API', retry: 'never', detail: { status: 403, reason: 'Forbidden' } })
    expect(error.message).toContain('no')
    expect(kubeReason(error)).toBe('Forbidden')
    expect(isGone(refusal('GET', '/x', 410, ''))).toBe(true)
  })

  it('opens few connections, and lets no watch wait for calls', async () => {
    const { api, client } = await anApi()
    api.put(podType, { metadata: { name: 'a', namespace: 'shop' } })
    const waiting = Promise.withResolvers<void>()
    api.hold = ({ query }) => (query.get('watch') === 'true' ? undefined : waiting.promise)
    const calls = Array.from({ length: 200 }, () => client.get(`${pods}/a`))
    const events: unknown[] = []
    const stop = new AbortController()
    const watch = client.watch(pods, { query: { resourceVersion: '100' }, signal: stop.signal, silenceMs: 10_000, onEvent: (event) => events.push(event) })
    await expect.poll(() => events.length).toBe(1)
    expect(api.connections).toBeLessThan(40)
    waiting.resolve()
    expect((await Promise.all(calls)).length).toBe(200)
    stop.abort()
    await expect(watch).rejects.toMatchObject({ code: 'CLOSED' })
  })

  it('is not misled by what is no API server', async () => {
    const { api, client } = await anApi()
    for (const body of ['', 'hello', '[]', '7', 'null', '{}']) {
      api.fault = () => ({ status: 200, body })
      expect((await thrown(client.get(`${pods}/a`))).code).toBe('KUBE_UNREACHABLE')
      expect((await thrown(client.list(pods))).code).toBe('KUBE_UNREACHABLE')
    }
    api.fault = () => ({ status: 302, headers: { location: 'http://127.0.0.1:1/' } })
    expect(await thrown(client.get(`${pods}/a`))).toMatchObject({ code: 'KUBE_API', detail: { status: 302 } })
  })

  it('leaves out of lists what is no object', async () => {
    const { api, client } = await anApi()
    api.fault = () => ({ status: 200, body: JSON.stringify({ kind: 'PodList', apiVersion: 'v1', metadata: { resourceVersion: '5' }, items: [null, 7, {}, { metadata: {} }, { metadata: { name: 'a' } }] }) })
    expect((await client.list(pods)).items.map(({ metadata }) => metadata.name)).toEqual(['a'])
  })

  it('asks for no other path than it was given', async () => {
    const { api, client } = await anApi()
    for (const path of ['', 'x', '/api/../secrets', '/api/v1/namespaces/./pods', '/api/%2e%2e/x', '/a?b', '/a#b', '/a b', '/a\r\nx: y', resourcePath(podType, { namespace: '..' })]) {
      expect(await thrown(client.get(path))).toMatchObject({ code: 'KUBE_API', detail: { status: 400 } })
    }
    expect(api.seen).toEqual([])
    await thrown(client.get(resourcePath(podType, { namespace: 'a/b?c', name: '../x' })))
    expect(api.seen.map(({ path }) => path)).toEqual(['/api/v1/namespaces/a%2Fb%3Fc/pods/..%2Fx'])
  })

  it('gives up when told, in time, and when closed', async () => {
    const { api, client } = await anApi()
    api.fault = () => ({ status: 429, headers: { 'retry-after': '5' } })
    const abort = new AbortController()
    const call = thrown(client.get(`${pods}/a`, { signal: abort.signal }))
    setTimeout(() => abort.abort(), 50)
    expect((await call).code).toBe('CLOSED')
    client.close()
    expect((await thrown(client.get(`${pods}/a`))).code).toBe('CLOSED')
  })

  it('shows a token, reads it anew where it is refused, and never tells it', async () => {
    const api = await new FakeKubeApi().start()
    opened.push({ close: () => api.stop() })
    const tokens = ['old-secret', 'new-secret']
    const client = new KubeClient({ ...api.connection(), authorization: async (isRefused) => `Bearer ${isRefused ? tokens[1] : tokens[0]}` })
    opened.push(client)
    api.put(podType, { metadata: { name: 'a', namespace: 'shop' } })
    api.fault = ({ headers }): Fault => (headers.authorization === 'Bearer new-secret' ? undefined : { status: 401, body: 'no' })
    expect((await client.get(`${pods}/a`)).metadata.name).toBe('a')
    api.fault = () => ({ status: 401, body: 'no' })
    const error = await thrown(client.get(`${pods}/a`))
    expect(error.detail['status']).toBe(401)
    expect(JSON.stringify([error.message, error.detail, String(error.cause)])).not.toContain('secret')
  })

  it('says that nobody answers', async () => {
    const { api, client } = await anApi()
    await api.stop()
    expect(await thrown(client.get(`${pods}/a`, { timeoutMs: 2_000 }))).toMatchObject({ code: 'KUBE_UNREACHABLE' })
    await api.start(api.port)
  })

  it('makes an error of any refusal', () => {
    fc.assert(fc.property(fc.integer({ min: 100, max: 999 }), fc.oneof(fc.string(), fc.json()), (status, body) => {
      const error = refusal('GET', '/x', status, body)
      expect(errorCodes).toContain(error.code)
      expect(error.message.length).toBeLessThan(2_300)
    }))
  })
})
