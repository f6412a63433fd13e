// The writer sends what is new and nothing twice, leaves alone for a while what is refused, and stops when it is told.
import { expect, test, vi } from 'vitest'
import { systemClock } from '../../core/clock.ts'
import { silentLogger } from '../../core/log.ts'
import { apiError } from '../../kube/answers.ts'
import type { KubeObject } from '../../kube/api.ts'
import { ObservedObjects } from './observed-objects.ts'
import { StatusWriter } from './status-writer.ts'

const kind = { group: 'sidestep.dev', plural: 'cachepolicies', kind: 'CachePolicy', namespaced: true }
const id = 'sidestep.dev/CachePolicy shop/a'
const object = (resourceVersion: string, status: object = {}, generation = 1): KubeObject => ({
  apiVersion: 'sidestep.dev/v1alpha1', kind: 'CachePolicy', metadata: { namespace: 'shop', name: 'a', uid: 'u', resourceVersion, generation }, status,
})

interface World {
  readonly observed: ObservedObjects
  readonly writer: StatusWriter
  readonly sent: { readonly path: string; readonly body: unknown }[]
  readonly again: number[]
  readonly write: (change: object) => boolean
}

/** `answer` is the API server. */
function world(answer: (body: { readonly status: object }) => KubeObject): World {
  const observed = new ObservedObjects()
  observed.put(kind, object('1'))
  const sent: { path: string; body: unknown }[] = []
  const again: number[] = []
  const writer = new StatusWriter({
    observed, clock: systemClock, logger: silentLogger, again: (ms) => void again.push(ms),
    api: {
      patch: async (path, body) => {
        sent.push({ path, body })
        return answer(body as { readonly status: object })
      },
    },
  })
  return { observed, writer, sent, again, write: (change) => writer.write(observed.get(id) ?? expect.fail(), change as Readonly<Record<string, unknown>>) }
}

test('the object that was looked at is named, and the answer is what is there now', async () => {
  const { observed, sent, write } = world(({ status }) => object('2', status))
  write({ conditions: [1] })
  await vi.waitFor(() => expect(observed.get(id)?.resourceVersion).toBe('2'))
  expect(sent).toEqual([{
    path: '/apis/sidestep.dev/v1alpha1/namespaces/shop/cachepolicies/a/status', body: { metadata: { uid: 'u', resourceVersion: '1' }, status: { conditions: [1] } },
  }])
  expect(observed.get(id)?.status).toEqual({ conditions: [1] })
})

test('fields that the API server does not know are not sent again and again', async () => {
  const { observed, sent, write } = world(() => object('2'))
  const change = (time: string): object => ({ supportedFeatures: ['x'], conditions: [{ type: 'a', lastTransitionTime: time }] })
  write(change('1'))
  await vi.waitFor(() => expect(observed.get(id)?.resourceVersion).toBe('2'))
  expect([write(change('2')), sent.length]).toEqual([false, 1])
  expect(write({ other: 1 })).toBe(true)
  // Somebody wrote the status meanwhile: then it is tried once more.
  observed.put(kind, object('3', { conditions: [2] }))
  expect(write(change('3'))).toBe(true)
})

test('an answer about a newer spec than was translated waits for the watch', async () => {
  const { observed, sent, write } = world(({ status }) => object('3', status, 2))
  write({ conditions: [1] })
  await vi.waitFor(() => expect(sent).toHaveLength(1))
  await new Promise((resolve) => { setImmediate(resolve) })
  expect(observed.get(id)).toMatchObject({ resourceVersion: '1', generation: 1 })
})

test.each([
  [409, 'the object has been modified', true], [404, 'cachepolicies.sidestep.dev "a" not found', true], [500, 'etcd', true],
  [404, 'the server could not find the requested resource', false], [403, 'cachepolicies.sidestep.dev "a" is forbidden', false],
])('%i %s: what is refused is left alone for a moment, and a kind that cannot be written altogether', async (status, message, isTriedSoon) => {
  const { sent, again, write } = world(() => {
    throw apiError('PATCH', '/x', status, '', message)
  })
  expect(write({ conditions: [1] })).toBe(true)
  await vi.waitFor(() => expect(sent).toHaveLength(1))
  await new Promise((resolve) => { setTimeout(resolve, 5) })
  expect(write({ conditions: [2] })).toBe(isTriedSoon)
  // In its pause it is not sent; whoever computes is asked to come back.
  expect(sent).toHaveLength(1)
  expect(again.every((ms) => ms > 0)).toBe(true)
})

test('closed, it writes nothing, and waits for what is under way', async () => {
  const gate = Promise.withResolvers<void>()
  const observed = new ObservedObjects()
  observed.put(kind, object('1'))
  let isDone = false
  const writer = new StatusWriter({
    observed, clock: systemClock, logger: silentLogger, again: () => undefined,
    api: {
      patch: async () => {
        await gate.promise
        isDone = true
        return object('2')
      },
    },
  })
  writer.write(observed.get(id) ?? expect.fail(), { a: 1 })
  const closing = writer.close()
  writer.write(observed.get(id) ?? expect.fail(), { a: 2 })
  gate.resolve()
  await closing
  expect([isDone, writer.writes]).toEqual([true, 1])
})

test('a bucket lets no more through at once than it holds', async () => {
  const observed = new ObservedObjects()
  for (let i = 0; i < 200; i++) observed.put(kind, { ...object('1'), metadata: { ...object('1').metadata, name: `n${i}`, uid: `${i}` } })
  let sent = 0
  const writer = new StatusWriter({
    observed, clock: systemClock, logger: silentLogger, again: () => undefined,
    api: {
      patch: async () => {
        sent++
        return object('2')
      },
    },
  })
  const from = performance.now()
  for (const each of observed.values()) writer.write(each, { a: 1 })
  await vi.waitFor(() => expect(sent).toBeGreaterThan(49))
  expect(sent).toBeLessThanOrEqual(52 + Math.ceil(((performance.now() - from) / 1000) * 25))
  await writer.close()
})
