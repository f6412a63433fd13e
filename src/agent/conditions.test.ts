// Conditions as an API server gets them: once for each change, the last word alone, again until they are said, not too many at once.
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { silentLogger } from '../core/log.ts'
import type { KubeObject } from '../kube/api.ts'
import { ConditionWriter } from './conditions.ts'
import type { Condition } from './conditions.ts'

const yes: Condition = { status: 'True', reason: 'Captured', message: 'yes' }
const no: Condition = { status: 'False', reason: 'NotInMesh', message: 'no' }
const pod = (uid: string): { uid: string; namespace: string; name: string } => ({ uid, namespace: 'shop', name: `pod-${uid}` })

interface Written {
  readonly path: string
  readonly uid: string
  readonly status: string
  readonly lastTransitionTime: string
}

/** `fail` decides what becomes of each write. */
function writer(fail: (count: number) => Error | undefined = () => undefined, more: { perSecond?: number; burst?: number } = {}): { conditions: ConditionWriter; written: Written[]; tries: () => number } {
  const written: Written[] = []
  let tries = 0
  const conditions = new ConditionWriter({
    logger: silentLogger, perSecond: 1000, ...more,
    api: {
      patch: async (path, patch, type) => {
        const error = fail(++tries)
        await sleep(1)
        if (error) throw error
        expect(type).toBe('strategic')
        const { metadata, status } = patch as { metadata: { uid: string }; status: { conditions: [Omit<Written, 'path' | 'uid'>] } }
        written.push({ path, uid: metadata.uid, status: status.conditions[0].status, lastTransitionTime: status.conditions[0].lastTransitionTime })
        return {} as KubeObject
      },
    },
  })
  return { conditions, written, tries: () => tries }
}

const refusal = (status: number): MeshError => new MeshError('KUBE_API', 'refused', { detail: { status, reason: 'X' } })

test('once for each change, with the pod\'s uid, and nothing where the API has it already', async () => {
  const { conditions, written } = writer()
  conditions.set(pod('a'), yes, undefined)
  conditions.set(pod('a'), yes, undefined)
  await conditions.written('a')
  conditions.set(pod('a'), yes, undefined)
  conditions.set(pod('b'), yes, { ...yes, lastTransitionTime: 'then' })
  await conditions.written('b')
  conditions.set(pod('a'), no, undefined)
  await conditions.written('a')
  expect(written.map(({ path, uid, status }) => ({ path, uid, status }))).toEqual([
    { path: '/api/v1/namespaces/shop/pods/pod-a/status', uid: 'a', status: 'True' }, { path: '/api/v1/namespaces/shop/pods/pod-a/status', uid: 'a', status: 'False' },
  ])
})

test('the time is that of the last change of the status', async () => {
  const { conditions, written } = writer()
  conditions.set(pod('a'), { ...no, message: 'another' }, { ...no, lastTransitionTime: '2026-01-01T00:00:00Z' })
  await conditions.written('a')
  conditions.set(pod('a'), yes, undefined)
  await conditions.written('a')
  expect(written[0]?.lastTransitionTime).toBe('2026-01-01T00:00:00Z')
  expect(written[1]?.lastTransitionTime).toMatch(/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
  expect(written[1]?.lastTransitionTime).not.toBe('2026-01-01T00:00:00Z')
})

test('the last word alone, however often it changes while one is written', async () => {
  const { conditions, written } = writer()
  for (let i = 0; i < 100; i++) conditions.set(pod('a'), i % 2 === 0 ? no : yes, undefined)
  await conditions.written('a')
  expect(written.length).toBeLessThanOrEqual(2)
  expect(written.at(-1)?.status).toBe('True')
})

test('again until it is said; not to a pod that is gone or another', async () => {
  const { conditions, written, tries } = writer((count) => (count < 3 ? refusal(500) : undefined))
  conditions.set(pod('a'), yes, undefined)
  await conditions.written('a')
  expect([written.length, tries()]).toEqual([1, 3])
  for (const status of [404, 409]) {
    const gone = writer(() => refusal(status))
    gone.conditions.set(pod('a'), yes, undefined)
    await gone.conditions.written('a')
    await sleep(50)
    expect(gone.tries()).toBe(1)
    gone.conditions.close()
  }
})

test('what somebody else made of it is written anew, once the API has shown ours', async () => {
  const { conditions, written } = writer()
  conditions.set(pod('a'), yes, undefined)
  await conditions.written('a')
  // The watch is behind: this is older than what was written.
  conditions.set(pod('a'), yes, { ...no, lastTransitionTime: 'then' })
  await sleep(20)
  expect(written).toHaveLength(1)
  conditions.set(pod('a'), yes, { ...yes, lastTransitionTime: 'now' })
  conditions.set(pod('a'), yes, { ...no, lastTransitionTime: 'later' })
  await conditions.written('a')
  expect(written).toHaveLength(2)
})

test('so many at once, and none while another agent writes', async () => {
  const { conditions, written } = writer(() => undefined, { perSecond: 50, burst: 5 })
  conditions.pause(true)
  for (let i = 0; i < 20; i++) conditions.set(pod(String(i)), yes, undefined)
  await sleep(50)
  expect(written).toEqual([])
  expect(conditions.waiting).toBe(20)
  const from = performance.now()
  conditions.pause(false)
  await Promise.all(Array.from({ length: 20 }, (_, i) => conditions.written(String(i))))
  expect(performance.now() - from).toBeGreaterThan(250)
  expect(written).toHaveLength(20)
})
