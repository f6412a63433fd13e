import { afterEach, describe, expect, it } from 'vitest'
import { silentLogger } from '../core/log.ts'
import type { ResourceType } from './api.ts'
import { EventRecorder, type KubeEvent } from './event-recorder.ts'
import { FakeKubeApi } from './testing.ts'

const events: ResourceType = { group: 'events.k8s.io', version: 'v1', plural: 'events', kind: 'Event', namespaced: true }
const event: KubeEvent = { type: 'Warning', reason: 'NotCaptured', action: 'Capture', note: 'its namespace is gone' }
const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a', namespace: 'shop', uid: 'u1' } }

const opened: { close(): unknown }[] = []
afterEach(async () => {
  for (const one of opened.splice(0).reverse()) await one.close()
})

async function recorder(limits: NonNullable<ConstructorParameters<typeof EventRecorder>[0]['limits']> = {}): Promise<{ api: FakeKubeApi; recorder: EventRecorder }> {
  const api = await new FakeKubeApi([events]).start()
  const client = api.client()
  const made = new EventRecorder({ api: client, log: silentLogger, controller: 'sidestep.dev/agent', instance: 'agent-x', limits })
  opened.push({ close: () => api.stop() }, client, made)
  return { api, recorder: made }
}

describe('events', () => {
  it('are written once, then counted', async () => {
    const { api, recorder: made } = await recorder({ repeatMs: 50 })
    for (let i = 0; i < 5; i += 1) made.record(pod, event)
    await expect.poll(() => api.list(events).length).toBe(1)
    const [written] = api.list(events)
    expect(written).toMatchObject({ reason: 'NotCaptured', type: 'Warning', note: event.note, regarding: { kind: 'Pod', name: 'a', namespace: 'shop', uid: 'u1' }, metadata: { namespace: 'shop' } })
    await new Promise((done) => setTimeout(done, 60))
    made.record(pod, event)
    await expect.poll(() => api.list(events)[0]?.['series']).toMatchObject({ count: 6 })
    expect(api.list(events).length).toBe(1)
    // Forgotten by the server: said anew.
    api.remove(events, written?.metadata.name ?? '', 'shop')
    await new Promise((done) => setTimeout(done, 60))
    made.record(pod, event)
    await expect.poll(() => api.list(events).length).toBe(1)
  })

  it('of one object are few, and leave others theirs', async () => {
    const { api, recorder: made } = await recorder({ burstPerObject: 3 })
    for (let i = 0; i < 50; i += 1) made.record(pod, { ...event, note: `note ${i}` })
    made.record({ ...pod, metadata: { ...pod.metadata, name: 'b', uid: 'u2' } }, event)
    await expect.poll(() => api.list(events).length).toBe(4)
    expect(made.dropped).toBe(47)
  })

  it('of things without a namespace go to default; long notes are cut', async () => {
    const { api, recorder: made } = await recorder()
    made.record({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } }, { ...event, note: 'ü'.repeat(2_000) })
    await expect.poll(() => api.list(events).length).toBe(1)
    const [written] = api.list(events)
    expect(written?.metadata.namespace).toBe('default')
    expect(Buffer.byteLength(String(written?.['note']))).toBeLessThanOrEqual(1_024)
    expect(String(written?.['note'])).toMatch(/^ü+…$/)
  })

  it('never get in anybody\'s way', async () => {
    const { api, recorder: made } = await recorder({ atOnce: 2, burstPerObject: 1_000 })
    api.fault = () => 'reset'
    for (let i = 0; i < 500; i += 1) made.record(pod, { ...event, note: `note ${i}` })
    await expect.poll(() => made.dropped).toBe(500)
    made.close()
    made.record(pod, event)
  })
})
