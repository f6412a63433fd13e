// src/kube against a real API server: what only it can show. What may go wrong in between is tried beside the code.
import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { silentLogger } from '../../src/core/log.ts'
import { isForbidden, isGone, kubeReason } from '../../src/kube/answers.ts'
import { resourcePath, type KubeObject, type ResourceType } from '../../src/kube/api.ts'
import type { KubeClient } from '../../src/kube/client.ts'
import { EventRecorder } from '../../src/kube/event-recorder.ts'
import { OptionalKinds } from '../../src/kube/kinds.ts'
import { Lease } from '../../src/kube/lease.ts'
import { ListWatch, type ListWatchOptions } from '../../src/kube/list-watch.ts'
import { TokenReviewer } from '../../src/kube/token-review.ts'
import { ApiServer } from './api-server.ts'

const configMaps: ResourceType = { group: '', version: 'v1', plural: 'configmaps', kind: 'ConfigMap', namespaced: true }
const crds: ResourceType = {
  group: 'apiextensions.k8s.io', version: 'v1', plural: 'customresourcedefinitions', kind: 'CustomResourceDefinition', namespaced: false,
}
const maps = resourcePath(configMaps, { namespace: 'default' })
const soon = { timeout: 30_000, interval: 50 }

let server: ApiServer
let admin: KubeClient
const opened: { close(): unknown }[] = []

beforeAll(async () => {
  server = await ApiServer.start()
  admin = await server.client()
}, 900_000)

afterAll(async () => {
  admin?.close()
  await server?.stop()
})

afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

function map(name: string, x: string): object {
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { x } }
}

interface Watched {
  readonly view: Map<string, string>
  readonly removed: string[]
  readonly watch: ListWatch<string>
}

function watching(options: Partial<ListWatchOptions<string>> = {}): Watched {
  const view = new Map<string, string>()
  const removed: string[] = []
  const watch = new ListWatch<string>({
    api: admin, log: silentLogger, type: configMaps, namespace: 'default', limits: { firstBackoffMs: 20, maxBackoffMs: 500 },
    trim: (object) => (object['data'] as { x?: string } | undefined)?.x,
    listener: {
      put: (key, x) => void view.set(key, x),
      remove: (key) => {
        view.delete(key)
        removed.push(key)
      },
    },
    ...options,
  })
  watch.start()
  opened.push(watch)
  return { view, removed, watch }
}

/** The view and the server say the same. */
async function agree(view: ReadonlyMap<string, string>): Promise<void> {
  await expect.poll(async () => {
    const { items } = await admin.list(maps)
    const there = items.flatMap(({ metadata, ...object }) => {
      const { x } = (object['data'] ?? {}) as { x?: string }
      return x === undefined ? [] : [`default/${metadata.name}=${x}`]
    })
    return JSON.stringify(there.sort()) === JSON.stringify([...view].map(([key, x]) => `${key}=${x}`).sort())
  }, soon).toBe(true)
}

async function inParallel(count: number, run: (index: number) => Promise<unknown>): Promise<void> {
  let next = 0
  await Promise.all(Array.from({ length: 20 }, async () => {
    while (next < count) await run(next++)
  }))
}

describe('lists and watches', () => {
  it('are whole over many pages, and live', async () => {
    await inParallel(1_200, (index) => admin.create(maps, map(`page-${index}`, 'a')))
    const { view, watch } = watching()
    await watch.synced()
    expect(view.size).toBe(1_200)
    await admin.patch(`${maps}/page-7`, { data: { x: 'b' } }, 'merge')
    await admin.delete(`${maps}/page-8`)
    await expect.poll(() => view.get('default/page-7'), soon).toBe('b')
    await expect.poll(() => view.has('default/page-8'), soon).toBe(false)
    const { items } = await admin.list(maps)
    expect(items.every(({ kind, apiVersion }) => kind === 'ConfigMap' && apiVersion === 'v1')).toBe(true)
    await inParallel(1_200, (index) => admin.delete(`${maps}/page-${index}`))
    await expect.poll(() => view.size, soon).toBe(0)
    expect(watch.state()).toMatchObject({ relists: 0, watches: 1 })
  })

  it.each(['SIGTERM', 'SIGKILL'] as const)('go on when the server is started anew (%s)', async (signal) => {
    await admin.create(maps, map('stays', 'a'))
    await admin.create(maps, map('goes', 'a'))
    const { view, watch } = watching()
    await watch.synced()
    await server.stopServer(signal)
    await expect.poll(() => watch.state().because, soon).toBeDefined()
    expect(view.size).toBe(2)
    await server.startServer()
    await admin.delete(`${maps}/goes`)
    await admin.patch(`${maps}/stays`, { data: { x: 'b' } }, 'merge')
    await agree(view)
    expect(view).toEqual(new Map([['default/stays', 'b']]))
    await admin.delete(`${maps}/stays`)
    await agree(view)
  })

  it('list anew what the server forgot, and tell what went meanwhile', async () => {
    await admin.create(maps, map('stays', 'a'))
    await admin.create(maps, map('goes', 'a'))
    // Nothing gets through for a while, as if the way to the server were cut.
    let isCut = false
    const { view, removed, watch } = watching({
      api: {
        page: (path, options) => (isCut ? Promise.reject(new Error('cut')) : admin.page(path, options)),
        watch: (path, options) => (isCut ? Promise.reject(new Error('cut')) : admin.watch(path, options)),
      },
    })
    await watch.synced()
    isCut = true
    await server.stopServer('SIGKILL')
    await server.startServer()
    await admin.delete(`${maps}/goes`)
    for (let index = 0; index < 20; index += 1) await admin.patch(`${maps}/stays`, { data: { x: `b${index}` } }, 'merge')
    await server.forget()
    isCut = false
    await agree(view)
    expect(removed).toEqual(['default/goes'])
    expect(watch.state().relists).toBeGreaterThanOrEqual(1)
    await admin.delete(`${maps}/stays`)
    await agree(view)
  })

  it('are whole where pages were forgotten half-way', async () => {
    await inParallel(30, (index) => admin.create(maps, map(`half-${index}`, 'a')))
    const first = await admin.page(maps, { query: { limit: 10 } })
    expect(first.items.length).toBe(10)
    await admin.patch(`${maps}/half-1`, { data: { x: 'b' } }, 'merge')
    await server.forget()
    const error: unknown = await admin.page(maps, { query: { limit: 10, continue: first.next } }).catch((reason: unknown) => reason)
    expect(isGone(error)).toBe(true)
    let isForgotten = false
    const { view, watch } = watching({
      limits: { pageSize: 10, firstBackoffMs: 20, maxBackoffMs: 500 },
      api: {
        watch: (path, options) => admin.watch(path, options),
        page: async (path, options) => {
          if (options.query?.['continue'] !== undefined && !isForgotten) {
            isForgotten = true
            await admin.delete(`${maps}/half-0`)
            await server.forget()
          }
          return admin.page(path, options)
        },
      },
    })
    await watch.synced()
    expect(isForgotten).toBe(true)
    await agree(view)
    expect(view.size).toBe(29)
    await inParallel(30, (index) => admin.delete(`${maps}/half-${index}`))
  })
})

describe('definitions', () => {
  const group = 'things.sidestep.test'
  const definition = (served: Record<string, boolean>): KubeObject => ({
    apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata: { name: `widgets.${group}` },
    spec: {
      group, scope: 'Namespaced', names: { plural: 'widgets', singular: 'widget', kind: 'Widget' },
      versions: ['v1', 'v1beta1'].map((name) => ({
        name, served: served[name] === true, storage: name === 'v1beta1',
        schema: { openAPIV3Schema: { type: 'object', properties: { spec: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } } } },
      })),
    },
  })
  const widgets = (version: string): ResourceType => ({ group, version, plural: 'widgets', kind: 'Widget', namespaced: true })
  const widget = (name: string): object => ({ apiVersion: `${group}/v1beta1`, kind: 'Widget', metadata: { name, namespace: 'default' } })

  it('come, learn versions, and go', async () => {
    const view = new Map<string, string>()
    let removals = 0
    const versions: (string | undefined)[] = []
    const kinds = new OptionalKinds([
      {
        group, plural: 'widgets', kind: 'Widget', namespaced: true, versions: ['v1', 'v1beta1'], trim: ({ apiVersion }) => apiVersion,
        listener: { put: (key, version) => void view.set(key, version as string), remove: (key) => void (view.delete(key), removals += 1) },
      },
      {
        group, plural: 'gadgets', kind: 'Gadget', namespaced: true, versions: ['v1'], trim: () => 1,
        listener: { put: () => {}, remove: () => {} },
      },
    ], { api: admin, log: silentLogger, limits: { firstBackoffMs: 20, maxBackoffMs: 500 }, onVersion: (_, plural, version) => void (plural === 'widgets' && versions.push(version)) })
    kinds.start()
    opened.push(kinds)
    await kinds.synced()
    expect(kinds.state().kinds[`widgets.${group}`]).toMatchObject({ version: undefined })

    await admin.apply(crds, definition({ v1beta1: true }))
    await expect.poll(() => kinds.state().kinds[`widgets.${group}`]?.watch?.isSynced, soon).toBe(true)
    await admin.create(resourcePath(widgets('v1beta1'), { namespace: 'default' }), widget('a'))
    await expect.poll(() => view, soon).toEqual(new Map([['default/a', `${group}/v1beta1`]]))

    await admin.apply(crds, definition({ v1: true, v1beta1: true }))
    await expect.poll(() => view, soon).toEqual(new Map([['default/a', `${group}/v1`]]))
    expect(removals).toBe(0)

    await admin.delete(resourcePath(crds, { name: `widgets.${group}` }))
    await expect.poll(() => view.size, soon).toBe(0)
    await expect.poll(() => kinds.state().kinds[`widgets.${group}`]?.version, soon).toBeUndefined()
    expect(removals).toBe(1)

    await admin.apply(crds, definition({ v1: true, v1beta1: true }))
    await expect.poll(() => kinds.state().kinds[`widgets.${group}`]?.watch?.isSynced, soon).toBe(true)
    await admin.create(resourcePath(widgets('v1beta1'), { namespace: 'default' }), widget('b'))
    await expect.poll(() => [...view.keys()], soon).toEqual(['default/b'])
    await admin.delete(resourcePath(crds, { name: `widgets.${group}` }))
    expect(versions.slice(0, 3)).toEqual(['v1beta1', 'v1', undefined])
  })
})

describe('a lease', () => {
  it('goes from one to the other, also when one goes without a word, and survives the server', async () => {
    const leading: string[] = []
    const candidate = (holder: string): Lease => {
      const lease = new Lease({
        api: admin, log: silentLogger, namespace: 'default', name: 'leader', holder, times: { durationMs: 3_000, renewWithinMs: 2_000, everyMs: 200 },
        onLeading: () => void leading.push(`+${holder}`), onLost: () => void leading.push(`-${holder}`),
      })
      lease.start()
      opened.push(lease)
      return lease
    }
    const a = candidate('a')
    await expect.poll(() => a.isLeading, soon).toBe(true)
    const b = candidate('b')
    await a.close()
    await expect.poll(() => b.isLeading, soon).toBe(true)
    expect(leading).toEqual(['+a', '-a', '+b'])
    await server.stopServer('SIGKILL')
    await expect.poll(() => b.isLeading, soon).toBe(false)
    await server.startServer()
    await expect.poll(() => b.isLeading, soon).toBe(true)
    expect(leading).toEqual(['+a', '-a', '+b', '-b', '+b'])
    // Somebody who held it and is no more.
    await b.close()
    const path = '/apis/coordination.k8s.io/v1/namespaces/default/leases/leader'
    await admin.patch(path, { spec: { holderIdentity: 'dead', leaseDurationSeconds: 2 } }, 'merge')
    const c = candidate('c')
    await expect.poll(() => c.state().holder, soon).toBe('dead')
    await expect.poll(() => c.isLeading, soon).toBe(true)
    expect((await admin.get(path)).spec).toMatchObject({ holderIdentity: 'c' })
  })
})

describe('tokens', () => {
  const audience = 'sidestep-controlplane'
  const podPath = '/api/v1/namespaces/default/pods'

  async function boundToken(name: string, audiences: readonly string[]): Promise<string> {
    const pod = await admin.get(`${podPath}/${name}`)
    const made = await admin.create('/api/v1/namespaces/default/serviceaccounts/ztunnel/token', {
      apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: {},
      spec: { audiences, expirationSeconds: 600, boundObjectRef: { apiVersion: 'v1', kind: 'Pod', name, uid: pod.metadata.uid } },
    })
    return (made.status as { token: string }).token
  }

  it('are bound to pod and node, to our audience, and to the life of the pod', async () => {
    await admin.create('/api/v1/namespaces/default/serviceaccounts', { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'ztunnel' } })
    await admin.create('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } })
    const made = await admin.create(podPath, {
      apiVersion: 'v1', kind: 'Pod', metadata: { name: 'ztunnel-1' },
      spec: { nodeName: 'n1', serviceAccountName: 'ztunnel', automountServiceAccountToken: false, containers: [{ name: 'c', image: 'x' }], terminationGracePeriodSeconds: 0 },
    })
    const token = await boundToken('ztunnel-1', [audience])
    const reviewer = new TokenReviewer({ api: admin, audience, keepMs: 100 })
    expect(await reviewer.review(token)).toMatchObject({
      ok: true, namespace: 'default', serviceAccount: 'ztunnel', pod: { name: 'ztunnel-1', uid: made.metadata.uid }, node: 'n1',
    })
    const [head, body, signature = ''] = token.split('.')
    const forged = `${head}.${body}.${signature.startsWith('A') ? 'B' : 'A'}${signature.slice(1)}`
    expect(await reviewer.review(forged)).toEqual({ ok: false, because: 'refused' })
    expect(await reviewer.review(await boundToken('ztunnel-1', ['other']))).toEqual({ ok: false, because: 'wrongAudience' })
    // It is no token for the API server itself.
    const impostor = await server.clientWith(token)
    opened.push(impostor)
    await expect(impostor.get(`${podPath}/ztunnel-1`)).rejects.toMatchObject({ code: 'KUBE_API', detail: { status: 401 } })
    await admin.delete(`${podPath}/ztunnel-1`)
    await expect.poll(() => reviewer.review(token), soon).toEqual({ ok: false, because: 'refused' })
  })

  it('of others are told what they may not', async () => {
    const made = await admin.create('/api/v1/namespaces/default/serviceaccounts/ztunnel/token', {
      apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: {}, spec: { expirationSeconds: 600 },
    })
    const nobody = await server.clientWith((made.status as { token: string }).token)
    opened.push(nobody)
    const error: unknown = await nobody.list('/api/v1/secrets').catch((reason: unknown) => reason)
    expect(isForbidden(error)).toBe(true)
    expect(kubeReason(error)).toBe('Forbidden')
  })
})

describe('writes', () => {
  it('are applied, and take fields from others when told', async () => {
    const name = `applied-${randomUUID().slice(0, 8)}`
    const object = (x: string): KubeObject => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name, namespace: 'default' }, data: { x } })
    await admin.create(maps, map(name, 'theirs'), { query: { fieldManager: 'somebody' } })
    await expect(admin.apply(configMaps, object('ours'), { force: false })).rejects.toMatchObject({ detail: { status: 409, reason: 'Conflict' } })
    expect((await admin.apply(configMaps, object('ours')))['data']).toEqual({ x: 'ours' })
    await admin.delete(`${maps}/${name}`)
    await admin.delete(`${maps}/${name}`)
  })

  it('of events are taken and counted', async () => {
    const recorder = new EventRecorder({ api: admin, log: silentLogger, controller: 'sidestep.dev/test', instance: 'test-1', limits: { repeatMs: 0 } })
    opened.push(recorder)
    const node = await admin.get('/api/v1/namespaces/default')
    const event = { type: 'Warning', reason: 'NotCaptured', action: 'Capture', note: 'x'.repeat(5_000) } as const
    recorder.record(node, event)
    const seen = async (): Promise<KubeObject[]> => (await admin.list('/apis/events.k8s.io/v1/namespaces/default/events')).items.filter(({ reason }) => reason === 'NotCaptured')
    await expect.poll(async () => (await seen()).length, soon).toBe(1)
    recorder.record(node, event)
    await expect.poll(async () => (await seen())[0]?.['series'], soon).toMatchObject({ count: 2 })
    expect(recorder.dropped).toBe(0)
  })
})
