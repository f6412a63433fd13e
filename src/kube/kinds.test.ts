import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { silentLogger } from '../core/log.ts'
import type { KubeObject, ResourceType } from './api.ts'
import { OptionalKinds, servedVersions, type OptionalKind } from './kinds.ts'
import { crdType, FakeKubeApi, type Fault } from './testing.ts'

const limits = { firstBackoffMs: 1, maxBackoffMs: 20 }
const route = { group: 'gateway.networking.k8s.io', plural: 'httproutes', kind: 'HTTPRoute', namespaced: true }
const policy = { group: 'security.istio.io', plural: 'authorizationpolicies', kind: 'AuthorizationPolicy', namespaced: true }

const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function anApi(): Promise<FakeKubeApi> {
  const api = await new FakeKubeApi().start()
  opened.push({ close: () => api.stop() })
  return api
}

/** As kubectl apply of a definition ends: served and established. */
function define(api: FakeKubeApi, kind: Omit<ResourceType, 'version'>, versions: readonly string[], isEstablished = true): void {
  if (isEstablished) for (const version of versions) api.define({ ...kind, version })
  api.put(crdType, {
    metadata: { name: `${kind.plural}.${kind.group}` },
    spec: { group: kind.group, names: { plural: kind.plural }, versions: versions.map((name) => ({ name, served: true, schema: 'x'.repeat(1_000) })) },
    status: { conditions: [{ type: 'Established', status: isEstablished ? 'True' : 'False' }] },
  })
}

function undefine(api: FakeKubeApi, kind: Omit<ResourceType, 'version'>): void {
  api.undefine({ ...kind, version: 'v1' })
  api.remove(crdType, `${kind.plural}.${kind.group}`)
}

function watching(api: FakeKubeApi, kinds = [route, policy], versions = ['v1', 'v1beta1']): { views: Map<string, string>[]; log: string[]; kinds: OptionalKinds } {
  const client = api.client()
  const log: string[] = []
  const views = kinds.map(() => new Map<string, string>())
  const optional = new OptionalKinds(kinds.map((kind, index): OptionalKind<string> => ({
    ...kind, versions, trim: ({ apiVersion }: KubeObject) => apiVersion,
    listener: {
      put: (key, object) => {
        log.push(`+${key}`)
        views[index]?.set(key, object)
      },
      remove: (key) => {
        log.push(`-${key}`)
        if (views[index]?.delete(key) !== true) log.push(`stray ${key}`)
      },
    },
  })), { api: client, log: silentLogger, limits })
  optional.start()
  opened.push(client, optional)
  return { views, log, kinds: optional }
}

const object = (name: string): { metadata: { name: string; namespace: string } } => ({ metadata: { name, namespace: 'shop' } })

describe('kinds that may be absent', () => {
  it('are synced when none is there', async () => {
    const api = await anApi()
    const { kinds } = watching(api)
    await kinds.synced()
    expect(kinds.state().kinds).toMatchObject({ 'httproutes.gateway.networking.k8s.io': { version: undefined } })
  })

  it('are watched in the best version that is served', async () => {
    const api = await anApi()
    define(api, route, ['v1alpha1', 'v1beta1', 'v1'])
    api.put({ ...route, version: 'v1' }, object('a'))
    const { kinds, views } = watching(api)
    await kinds.synced()
    expect(views[0]).toEqual(new Map([['shop/a', 'gateway.networking.k8s.io/v1']]))
    // The definitions' schemas are only read of what we are after.
    define(api, { group: 'other.dev', plural: 'others', kind: 'Other', namespaced: true }, ['v1'])
    await expect.poll(() => api.seen.some(({ query, path }) => path.endsWith('customresourcedefinitions') && query.get('watch') === 'true')).toBe(true)
    expect(api.seen.filter(({ path }) => path.includes('/customresourcedefinitions/')).length).toBe(1)
  })

  it('come and go', async () => {
    const api = await anApi()
    const { kinds, views, log } = watching(api)
    await kinds.synced()
    for (let round = 0; round < 3; round += 1) {
      define(api, policy, ['v1beta1'], false)
      define(api, policy, ['v1beta1'])
      api.put({ ...policy, version: 'v1beta1' }, object('deny'))
      await expect.poll(() => views[1]?.size).toBe(1)
      undefine(api, policy)
      await expect.poll(() => views[1]?.size).toBe(0)
    }
    expect(log.filter((line) => line.startsWith('stray'))).toEqual([])
  })

  it('lose nothing for a moment when another version is better', async () => {
    const api = await anApi()
    define(api, policy, ['v1beta1'])
    api.put({ ...policy, version: 'v1beta1' }, object('stays'))
    api.put({ ...policy, version: 'v1beta1' }, object('goes'))
    const { kinds, views, log } = watching(api)
    await kinds.synced()
    api.fault = ({ path, method }): Fault => {
      // Went while neither version is watched.
      if (method === 'GET' && path === '/apis/security.istio.io/v1/authorizationpolicies') api.remove({ ...policy, version: 'v1' }, 'goes', 'shop')
      return undefined
    }
    define(api, policy, ['v1beta1', 'v1'])
    await expect.poll(() => views[1]).toEqual(new Map([['shop/stays', 'security.istio.io/v1']]))
    expect(log.filter((line) => line === '-shop/stays')).toEqual([])
    expect(log.filter((line) => line.startsWith('stray'))).toEqual([])
  })

  it('stay as they were while their definition cannot be read', async () => {
    const api = await anApi()
    define(api, policy, ['v1'])
    api.put({ ...policy, version: 'v1' }, object('deny'))
    const { kinds, views, log } = watching(api)
    await kinds.synced()
    api.fault = ({ path }): Fault => (path.includes('/customresourcedefinitions/') ? { status: 500 } : undefined)
    define(api, policy, ['v1beta1', 'v1'])
    await expect.poll(() => String(kinds.state().kinds['authorizationpolicies.security.istio.io']?.because)).toContain('500')
    expect(views[1]?.size).toBe(1)
    api.fault = () => undefined
    await expect.poll(() => kinds.state().kinds['authorizationpolicies.security.istio.io']?.because).toBeUndefined()
    expect(log).toEqual(['+shop/deny'])
  })

  it('reads no version of what is no definition', () => {
    const cases = [{}, { status: 5 }, { spec: { versions: 'x' }, status: { conditions: [{ type: 'Established', status: 'True' }] } }, { status: { conditions: {} } }]
    for (const one of cases) expect(servedVersions({ apiVersion: 'x', kind: 'y', metadata: { name: 'z' }, ...one })).toEqual([])
    fc.assert(fc.property(fc.anything(), fc.anything(), (spec, status) => {
      expect(Array.isArray(servedVersions({ apiVersion: 'x', kind: 'y', metadata: { name: 'z' }, spec, status }))).toBe(true)
    }))
  })

  it('are right in the end, whatever comes and goes', async () => {
    const step = fc.record({ t: fc.constantFrom('v1', 'v1beta1', 'both', 'none', 'unready', 'put', 'remove', 'cut', 'compact', 'fail', 'wait'), n: fc.nat(3) })
    await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
      const api = await new FakeKubeApi().start()
      const { kinds, views, log } = watching(api, [policy])
      const v1 = { ...policy, version: 'v1' }
      let isThere = false
      try {
        for (const { t, n } of steps) {
          if (t === 'none') undefine(api, policy)
          else if (t === 'v1' || t === 'v1beta1') define(api, policy, [t])
          else if (t === 'both') define(api, policy, ['v1', 'v1beta1'])
          else if (t === 'unready') define(api, policy, ['v1'], false)
          else if (t === 'put' && isThere) api.put(v1, object(`p${n}`))
          else if (t === 'remove') api.remove(v1, `p${n}`, 'shop')
          else if (t === 'cut') api.cutConnections()
          else if (t === 'compact') api.compact()
          else if (t === 'fail') {
            let left = n
            api.fault = (): Fault => (left-- > 0 ? { status: 500 } : undefined)
          } else if (t === 'wait') await new Promise((done) => setTimeout(done, n * 4))
          if (['v1', 'v1beta1', 'both'].includes(t)) isThere = true
          else if (t === 'none' || t === 'unready') isThere = false
        }
        api.fault = () => undefined
        const expected = isThere ? api.list(v1).map(({ metadata }) => `shop/${metadata.name}`).sort() : []
        await expect.poll(() => [...(views[0]?.keys() ?? [])].sort(), { timeout: 5_000, interval: 5 }).toEqual(expected)
        await kinds.synced()
        expect(log.filter((line) => line.startsWith('stray'))).toEqual([])
      } finally {
        kinds.close()
        await api.stop()
      }
    }), { numRuns: 50 })
  })
})
