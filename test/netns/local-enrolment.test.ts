// The node agent's side of enrolment, seen by a stand-in for the ztunnel: who is told what and when, and that a pod does
// not run before its traffic is captured.
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { LocalMesh } from '../../src/local/mesh.ts'
import type { AgentMessage } from '../../src/model/enrolment.ts'
import type { PodStatus } from '../../src/model/local-status.ts'
import { eventually, meshed, namespaceYaml, podYaml, world } from '../helpers/world.ts'

type Said = { node: string } & (AgentMessage | { cleanup: true })

let directory = ''
let mesh: LocalMesh | undefined
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-enrol-'))
  answer('ack')
})
afterEach(async () => {
  await mesh?.stop()
  mesh = undefined
  rmSync(directory, { recursive: true })
})

const ztunnelCommand = (): string[] => [process.execPath, fileURLToPath(new URL('../helpers/fake-ztunnel.ts', import.meta.url)), directory]
const answer = (text: string): void => writeFileSync(join(directory, 'answer'), text)

function said(node?: string): Said[] {
  let text = ''
  try {
    text = readFileSync(join(directory, 'said'), 'utf8')
  } catch {
    // Nothing was said yet.
  }
  const lines = text.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Said)
  return lines.filter((line) => node === undefined || line.node === node)
}

function status(of: LocalMesh, name: string): PodStatus | undefined {
  return of.status().pods.find((pod) => pod.name === name)
}

describe('a pod in the mesh', () => {
  test('is announced to the ztunnel of its node, with all that it needs to know', async () => {
    mesh = await world()
      .namespace('shop', meshed)
      .pod('in', { namespace: 'shop', node: 'node-a', ports: [{ name: 'web', containerPort: 8080 }],
        container: { readinessProbe: { exec: { command: ['true'] } }, livenessProbe: { tcpSocket: { port: 'web' }, initialDelaySeconds: 60 } } })
      .pod('out', { node: 'node-a' })
      .start({ ztunnelCommand: ztunnelCommand() })
    await eventually(() => expect(said()).toHaveLength(3))
    expect(said('node-b')).toEqual([{ node: 'node-b', type: 'snapshot', seq: 1 }])
    const pod = mesh.pod('shop', 'in')
    expect(said('node-a').find((line) => 'type' in line && line.type === 'add')).toMatchObject({ pod: {
      uid: pod.options.uid, namespace: 'shop', name: 'in', serviceAccount: 'default', node: 'node-a', netns: pod.netns,
      ips: ['10.244.1.2', 'fd00:10:244:1::2'].map((ip) => expect.stringContaining(ip.slice(0, 6))), failureMode: 'closed', dns: true, probePorts: [8080],
    } })
    expect(statSync(pod.netns ?? '').ino).toBeGreaterThan(0)
    expect([status(mesh, 'in')?.captured, status(mesh, 'out')?.captured]).toEqual(['yes', 'no'])
    await mesh.stop()
    expect(said().filter((line) => 'cleanup' in line).map((line) => line.node).sort()).toEqual(['node-a', 'node-b'])
  })

  test('does not run before it is captured, and says what it waits for', async () => {
    answer('silent')
    const marker = join(directory, 'ran')
    mesh = await world().namespace('shop', meshed)
      .pod('in', { namespace: 'shop', command: ['sh', '-c', `touch ${marker}; sleep infinity`] })
      .launch({ ztunnelCommand: ztunnelCommand() })
    const running = mesh
    await running.waitUntil(() => status(running, 'in')?.reason.startsWith('waiting for capture') ?? false, 5000)
    await eventually(() => expect(said().length).toBe(3))
    expect(status(running, 'in')).toMatchObject({ phase: 'Pending', captured: 'waiting', ready: false })
    expect(() => statSync(marker)).toThrow()
    answer('no such device')
    await running.waitUntil(() => status(running, 'in')?.reason.includes('no such device') ?? false, 5000)
    expect(() => statSync(marker)).toThrow()
    answer('ack')
    await running.waitReady(8000)
    await eventually(() => statSync(marker))
  })

  test('whose owner chose open starts after five seconds without', async () => {
    answer('silent')
    mesh = await world().namespace('shop', { ...meshed, 'sidestep.dev/failure-mode': 'open' }).pod('in', { namespace: 'shop' })
      .launch({ ztunnelCommand: ztunnelCommand() })
    const before = performance.now()
    await mesh.waitReady(8000)
    expect(performance.now() - before).toBeGreaterThan(4000)
    expect(status(mesh, 'in')).toMatchObject({ captured: 'waiting', ready: true })
    answer('ack')
    const running = mesh
    await running.waitUntil(() => status(running, 'in')?.captured === 'yes', 3000)
  })
})

test('labels enrol and un-enrol a running pod without touching it; the pod wins over its namespace', async () => {
  mesh = await world().nodes(1).namespace('shop').pod('p', { namespace: 'shop' }).start({ ztunnelCommand: ztunnelCommand() })
  const running = mesh
  const { uid } = mesh.pod('shop', 'p').options
  const last = (): Said | undefined => said().at(-1)
  mesh.apply(namespaceYaml('shop', meshed))
  await mesh.waitUntil(() => status(running, 'p')?.captured === 'yes', 5000)
  mesh.apply(podYaml('p', { namespace: 'shop', labels: { 'sidestep.dev/mesh': 'disabled' } }))
  await eventually(() => expect(last()).toMatchObject({ type: 'delete', uid }))
  expect(status(running, 'p')?.captured).toBe('no')
  mesh.apply(podYaml('p', { namespace: 'shop', labels: { 'sidestep.dev/failure-mode': 'open' } }))
  await eventually(() => expect(last()).toMatchObject({ type: 'add', pod: { uid, failureMode: 'open' } }))
  mesh.apply(podYaml('p', { namespace: 'shop' }))
  await eventually(() => expect(last()).toMatchObject({ type: 'add', pod: { uid, failureMode: 'closed' } }))
  expect(status(running, 'p')).toMatchObject({ ready: true, restarts: 0 })
  mesh.unapply('Pod shop/p')
  await eventually(() => expect(last()).toMatchObject({ type: 'delete', uid }))
})

test('a ztunnel that dies is started again and told everything; its pods stay captured', async () => {
  mesh = await world().nodes(1).namespace('shop', meshed).pod('p', { namespace: 'shop' }).start({ ztunnelCommand: ztunnelCommand() })
  const running = mesh
  const ztunnel = mesh.nodes[0]?.ztunnel
  const first = ztunnel?.pid
  expect(first).toBeDefined()
  process.kill(first ?? 0, 'SIGKILL')
  await eventually(() => expect(said().filter((line) => 'type' in line && line.type === 'snapshot')).toHaveLength(2))
  expect(ztunnel?.pid).not.toBe(first)
  expect(status(running, 'p')).toMatchObject({ captured: 'yes', ready: true, restarts: 0 })
})
