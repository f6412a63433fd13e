import { setTimeout as wait } from 'node:timers/promises'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { silentLogger } from '../core/log.ts'
import type { KubeObject } from './api.ts'
import type { KubeClient } from './client.ts'
import { ListWatch, type ListWatchOptions } from './list-watch.ts'
import { FakeKubeApi, podType, type Fault } from './testing.ts'

const quick = { firstBackoffMs: 1, maxBackoffMs: 5, pageSize: 3 }

interface Seen {
  readonly version: string
  readonly x: unknown
}

/** What a listener made of what it was told. A removal of what it never had is noted. */
class View {
  readonly objects = new Map<string, Seen>()
  readonly puts: string[] = []
  readonly removals: string[] = []
  strays = 0

  put(key: string, object: Seen): void {
    this.objects.set(key, object)
    this.puts.push(key)
  }

  remove(key: string): void {
    if (!this.objects.delete(key)) this.strays += 1
    this.removals.push(key)
  }
}

function trim({ metadata, spec }: KubeObject): Seen | undefined {
  const { x } = (spec ?? {}) as { x?: unknown }
  if (x === 'unwanted') return undefined
  if (x === 'broken') throw new TypeError('hostile')
  return { version: metadata.resourceVersion ?? '', x }
}

const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function anApi(): Promise<FakeKubeApi> {
  const api = await new FakeKubeApi().start()
  opened.push({ close: () => api.stop() })
  return api
}

function watching(api: FakeKubeApi, options: Partial<ListWatchOptions<Seen>> = {}): { view: View; watch: ListWatch<Seen>; client: KubeClient } {
  const view = new View()
  const client = api.client()
  const watch = new ListWatch<Seen>({ api: client, log: silentLogger, type: podType, trim, listener: view, limits: quick, ...options })
  watch.start()
  opened.push(client, watch)
  return { view, watch, client }
}

function pod(name: string, x: unknown = 0, namespace = 'shop', labels: Record<string, string> = {}): { metadata: { name: string; namespace: string }; spec: object } {
  return { metadata: { name, namespace, labels } as { name: string; namespace: string }, spec: { x, nodeName: 'n1' } }
}

/** The view and the server say the same. */
function agree(api: FakeKubeApi, view: View): void {
  const expected = api.list(podType).flatMap((object): [string, Seen][] => {
    try {
      const trimmed = trim(object)
      return trimmed ? [[`${object.metadata.namespace}/${object.metadata.name}`, trimmed]] : []
    } catch {
      return []
    }
  })
  expect([...view.objects].sort()).toEqual(expected.sort())
}

describe('a list-watch', () => {
  it('tells what is there, then what changes', async () => {
    const api = await anApi()
    for (let i = 0; i < 10; i += 1) api.put(podType, pod(`p${i}`, i))
    const { view, watch } = watching(api)
    await watch.synced()
    expect(view.objects.size).toBe(10)
    expect(api.seen.filter(({ query }) => query.get('watch') !== 'true').length).toBe(4)
    await expect.poll(() => api.watches).toBe(1)
    api.put(podType, pod('p3', 'new'))
    api.remove(podType, 'p4', 'shop')
    await expect.poll(() => view.removals).toEqual(['shop/p4'])
    expect(view.objects.get('shop/p3')?.x).toBe('new')
    expect(watch.state()).toMatchObject({ t: 'watching', isSynced: true, objects: 9, relists: 0 })
    agree(api, view)
  })

  it('resumes where it was, telling nothing twice', async () => {
    const api = await anApi()
    api.put(podType, pod('a'))
    const { view, watch } = watching(api)
    await watch.synced()
    for (let i = 0; i < 5; i += 1) {
      await expect.poll(() => api.watches).toBe(1)
      if (i % 2 === 0) api.endWatches()
      else api.cutConnections()
      await expect.poll(() => watch.state().watches).toBe(i + 2)
      api.put(podType, pod('a', i))
      await expect.poll(() => view.objects.get('shop/a')?.x).toBe(i)
    }
    expect(view.puts.length).toBe(6)
    expect(watch.state().relists).toBe(0)
  })

  it.each(['status', 'event'] as const)('lists anew what was forgotten (%s), and tells what went meanwhile', async (goneAs) => {
    const api = await anApi()
    api.goneAs = goneAs
    api.put(podType, pod('stays'))
    api.put(podType, pod('goes'))
    const { view, watch } = watching(api)
    await watch.synced()
    await expect.poll(() => api.watches).toBe(1)
    api.fault = ({ query }): Fault => (query.get('watch') === 'true' ? { status: 503 } : undefined)
    api.cutConnections()
    api.remove(podType, 'goes', 'shop')
    api.put(podType, pod('comes'))
    api.compact()
    api.fault = () => undefined
    await expect.poll(() => view.removals).toEqual(['shop/goes'])
    await expect.poll(() => view.objects.has('shop/comes')).toBe(true)
    expect(view.puts.filter((key) => key === 'shop/stays').length).toBe(1)
    expect(watch.state().relists).toBeGreaterThanOrEqual(1)
    agree(api, view)
  })

  it('goes on from bookmarks, so that forgetting what it has seen costs nothing', async () => {
    const api = await anApi()
    const { view, watch } = watching(api)
    await watch.synced()
    await expect.poll(() => api.watches).toBe(1)
    for (let i = 0; i < 20; i += 1) api.put({ ...podType, plural: 'others' }, pod(`o${i}`))
    api.bookmark()
    // The bookmark is through when what comes after it is.
    api.put(podType, pod('late'))
    await expect.poll(() => view.objects.has('shop/late')).toBe(true)
    api.compact()
    api.endWatches()
    await expect.poll(() => watch.state().watches).toBe(2)
    api.put(podType, pod('later'))
    await expect.poll(() => view.objects.has('shop/later')).toBe(true)
    expect(watch.state().relists).toBe(0)
  })

  it('lists in one piece when the server forgets between pages', async () => {
    const api = await anApi()
    for (let i = 0; i < 10; i += 1) api.put(podType, pod(`p${i}`, i))
    let isForgotten = false
    api.fault = ({ query }): Fault => {
      if (query.has('continue') && !isForgotten) {
        isForgotten = true
        // Was in the page that was told already.
        api.remove(podType, 'p0', 'shop')
        api.compact()
      }
      return undefined
    }
    const { view, watch } = watching(api)
    await watch.synced()
    expect(view.removals).toEqual(['shop/p0'])
    expect(view.strays).toBe(0)
    agree(api, view)
  })

  it('takes back what a list told that failed half-way', async () => {
    const api = await anApi()
    for (let i = 0; i < 8; i += 1) api.put(podType, pod(`p${i}`, i))
    let fails = 2
    api.fault = ({ query }): Fault => {
      if (!query.has('continue') || fails === 0) return undefined
      fails -= 1
      api.remove(podType, `p${fails}`, 'shop')
      return { status: 500, body: 'no' }
    }
    const { view, watch } = watching(api)
    await watch.synced()
    agree(api, view)
    expect(view.objects.size).toBe(6)
  })

  it('leaves out what trim does not want or cannot read, and takes back what became so', async () => {
    const api = await anApi()
    for (const name of ['a', 'b', 'c']) api.put(podType, pod(name))
    const { view, watch } = watching(api)
    await watch.synced()
    await expect.poll(() => api.watches).toBe(1)
    api.put(podType, pod('a', 'unwanted'))
    api.put(podType, pod('b', 'broken'))
    api.put(podType, pod('c', 'fine'))
    await expect.poll(() => view.objects.get('shop/c')?.x).toBe('fine')
    expect([...view.objects.keys()]).toEqual(['shop/c'])
    expect(view.removals).toEqual(['shop/a', 'shop/b'])
    expect(watch.state().objects).toBe(1)
  })

  it('goes by namespace and selectors', async () => {
    const api = await anApi()
    api.put(podType, pod('mine', 1, 'shop', { app: 'a' }))
    api.put(podType, pod('other', 1, 'shop', { app: 'b' }))
    api.put(podType, pod('elsewhere', 1, 'dev', { app: 'a' }))
    const { view, watch } = watching(api, { namespace: 'shop', labelSelector: 'app=a', fieldSelector: 'spec.nodeName=n1' })
    await watch.synced()
    expect([...view.objects.keys()]).toEqual(['shop/mine'])
    await expect.poll(() => api.watches).toBe(1)
    api.put(podType, pod('mine', 1, 'shop', { app: 'b' }))
    await expect.poll(() => view.objects.size).toBe(0)
  })

  it('ends a watch that falls silent, and goes on from there', async () => {
    const api = await anApi()
    const { view, watch } = watching(api, { limits: { ...quick, silenceMs: 300 } })
    await watch.synced()
    await expect.poll(() => watch.state().watches, { timeout: 10_000 }).toBeGreaterThan(1)
    api.put(podType, pod('a'))
    await expect.poll(() => view.objects.size, { timeout: 10_000 }).toBe(1)
    expect(watch.state().relists).toBeLessThan(watch.state().watches)
  })

  it.each([
    ['no JSON', 'nonsense\n'], ['no event', '{"x":1}\n'], ['an unknown event', '{"type":"WHAT","object":{"metadata":{"name":"x","resourceVersion":"1"}}}\n'],
    ['an object without a version', '{"type":"ADDED","object":{"metadata":{"name":"x"}}}\n'], ['bytes that are no text', '\xff\xfe\n'],
    ['an object without a name', '{"type":"ADDED","object":{"metadata":{"resourceVersion":"5"}}}\n'], ['a status', '{"type":"ERROR","object":{"code":500}}\n'],
    ['a line without an end', `{"type":"ADDED","object":{"x":"${'y'.repeat(9 << 20)}`],
  ])('stays right after %s', async (_, text) => {
    const api = await anApi()
    const { view, watch } = watching(api)
    await watch.synced()
    await expect.poll(() => api.watches).toBe(1)
    api.tellWatches(text)
    await expect.poll(() => watch.state().watches, { timeout: 10_000 }).toBeGreaterThan(1)
    api.put(podType, pod('a'))
    await expect.poll(() => view.objects.has('shop/a')).toBe(true)
    agree(api, view)
  })

  it('has no objects of a kind that is absent, and finds it when it comes', async () => {
    const api = await anApi()
    const type = { group: 'x.dev', version: 'v1', plural: 'things', kind: 'Thing', namespaced: true }
    const { view, watch } = watching(api, { type, mayBeAbsent: true })
    await watch.synced()
    await expect.poll(() => String(watch.state().because)).toContain('404')
    api.define(type)
    api.put(type, pod('a'))
    await expect.poll(() => view.objects.size).toBe(1)
    api.undefine(type)
    await expect.poll(() => view.objects.size).toBe(0)
  })

  it('says what is wrong, and is not synced', async () => {
    const api = await anApi()
    api.fault = () => ({ status: 403, body: '{"kind":"Status","reason":"Forbidden","message":"pods is forbidden"}' })
    const { watch } = watching(api)
    await expect.poll(() => watch.state()).toMatchObject({ isSynced: false, because: expect.stringContaining('pods is forbidden') as string })
    const synced = watch.synced()
    watch.close()
    await expect(synced).rejects.toMatchObject({ code: 'CLOSED' })
    await watch.ended()
  })

  it('tells nothing after it was closed', async () => {
    const api = await anApi()
    const { view, watch } = watching(api)
    await watch.synced()
    await expect.poll(() => api.watches).toBe(1)
    watch.close()
    await watch.ended()
    await expect.poll(() => api.watches).toBe(0)
    api.put(podType, pod('a'))
    await wait(20)
    expect(view.puts).toEqual([])
  })

  it('is right in the end, whatever happens', async () => {
    const step = fc.oneof(
      { weight: 6, arbitrary: fc.record({ t: fc.constant('put' as const), name: fc.nat(12), x: fc.constantFrom(0, 1, 2, 'unwanted', 'broken') }) },
      { weight: 4, arbitrary: fc.record({ t: fc.constant('remove' as const), name: fc.nat(12) }) },
      fc.record({ t: fc.constantFrom('compact' as const, 'end' as const, 'cut' as const, 'bookmark' as const, 'garbage' as const, 'restart' as const) }),
      { weight: 2, arbitrary: fc.record({ t: fc.constant('fault' as const), fault: fc.constantFrom<Fault>('reset', { status: 500 }, { status: 410 }, { status: 200, body: 'x' }), times: fc.integer({ min: 1, max: 4 }) }) },
      { weight: 2, arbitrary: fc.record({ t: fc.constant('wait' as const), ms: fc.integer({ min: 0, max: 15 }) }) },
    )
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, isStatus) => {
      const api = await new FakeKubeApi().start()
      api.goneAs = isStatus ? 'status' : 'event'
      const { view, watch, client } = watching(api)
      try {
        let faults: Fault[] = []
        api.fault = () => faults.shift()
        for (const one of steps) {
          if (one.t === 'put') api.put(podType, pod(`p${one.name}`, one.x))
          else if (one.t === 'remove') api.remove(podType, `p${one.name}`, 'shop')
          else if (one.t === 'compact') api.compact()
          else if (one.t === 'end') api.endWatches()
          else if (one.t === 'cut') api.cutConnections()
          else if (one.t === 'bookmark') api.bookmark()
          else if (one.t === 'garbage') api.tellWatches('}{\n')
          else if (one.t === 'fault') faults = Array.from({ length: one.times }, () => one.fault)
          else if (one.t === 'wait') await wait(one.ms)
          else {
            const { port } = api
            await api.stop()
            await api.start(port)
          }
        }
        faults = []
        await watch.synced()
        await expect.poll(() => agree(api, view), { timeout: 5_000, interval: 5 }).toBeUndefined()
        expect(view.strays).toBe(0)
        expect(watch.state().objects).toBe(view.objects.size)
      } finally {
        watch.close()
        client.close()
        await api.stop()
      }
    }), { numRuns: 60 })
  })
})
