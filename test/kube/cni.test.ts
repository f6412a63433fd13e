// The CNI plugin where a real runtime calls it: pods of the mesh do not start before they are captured; without an agent the namespace's
// mode decides; what others do to the chain is put right. What an uninstall leaves of it is looked at in stories.test.ts.
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { hasEntry, withoutEntry } from '../../src/agent/cni-config-text.ts'
import { capturedCondition, systemNamespace } from '../../src/model/kubernetes-names.ts'
import type { ClusterNode } from './node.ts'
import type { PodObject } from './kubectl.ts'
import { eventually } from './machine.ts'
import { inMesh, installed, newNamespace, type Stage } from './stage.ts'
import { pod } from './workloads.ts'

const waitMs = 60_000
const daemonSet = ['-n', systemNamespace, 'daemonset/sidestep-ztunnel'] as const
const nowhere = 'sidestep.test/nowhere'

let there: Stage
let closed: string
let open: string
let outside: string

beforeAll(async () => {
  there = await installed()
  closed = await newNamespace('closed', inMesh)
  open = await newNamespace('open', { ...inMesh, 'sidestep.dev/failure-mode': 'open' })
  outside = await newNamespace('outside')
  await there.kube.rolledOut(systemNamespace, 'daemonset/sidestep-ztunnel')
}, 600_000)

afterAll(async () => {
  if (!there) return
  await bringAgents()
  for (const namespace of [closed, open, outside]) await there.kube.delete('namespace', namespace, '--wait=false')
})

const chain = '/etc/cni/net.d/10-test.conflist'
const chainOf = (node: ClusterNode): Promise<string> => node.machine.mustRun(['cat', chain])
const start = (namespace: string, name: string, node?: string): Promise<void> =>
  there.kube.apply(pod(name, { namespace, image: there.appImage, ...(node === undefined ? {} : { node }) }))
const one = (namespace: string, name: string): Promise<PodObject> => there.kube.get<PodObject>('pod', '-n', namespace, name)

async function startedAt(namespace: string, name: string): Promise<{ readonly captured: string | undefined; readonly running: string }> {
  return eventually(`${namespace}/${name} runs`, waitMs, async () => {
    const { status } = await one(namespace, name)
    const running = (status.containerStatuses?.[0]?.state as { running?: { startedAt?: string } } | undefined)?.running?.startedAt
    const condition = (status.conditions ?? []).find(({ type }) => type === capturedCondition) as { status: string; lastTransitionTime?: string } | undefined
    return running === undefined ? undefined : { captured: condition?.status === 'True' ? condition.lastTransitionTime : undefined, running }
  })
}

async function sendAgentsAway(): Promise<void> {
  await there.kube.kubectl(['patch', ...daemonSet, '--type=merge', '-p', JSON.stringify({ spec: { template: { spec: { nodeSelector: { [nowhere]: 'yes' } } } } })])
  await eventually('no agent runs', waitMs, async () => {
    const pods = await there.kube.pods(systemNamespace, 'app.kubernetes.io/component=ztunnel')
    const agents = pods.flatMap(({ status }) => status.containerStatuses ?? []).filter(({ name, state }) => name === 'agent' && state?.['running'] !== undefined)
    return agents.length === 0 ? true : undefined
  })
}

async function bringAgents(): Promise<void> {
  await there.kube.kubectl(['patch', ...daemonSet, '--type=merge', '-p', JSON.stringify({ spec: { template: { spec: { nodeSelector: { [nowhere]: null } } } } })])
  await there.kube.rolledOut(systemNamespace, 'daemonset/sidestep-ztunnel')
}

beforeEach(async () => {
  for (const node of there.cluster?.nodes ?? []) await eventually(`${node.name} has the plugin in its chain`, waitMs, async () => (hasEntry(await chainOf(node)) ? true : undefined))
})

test('a pod of the mesh runs no moment before it is captured', async () => {
  const names = ['a', 'b', 'c', 'd']
  for (const name of names) await start(closed, name)
  for (const name of names) {
    const { captured, running } = await startedAt(closed, name)
    expect([name, captured !== undefined && captured <= running]).toEqual([name, true])
  }
})

test('without an agent: closed holds and says why, open and what is outside start, and pods can go', async () => {
  await start(closed, 'goes')
  await startedAt(closed, 'goes')
  await sendAgentsAway()
  await start(closed, 'held')
  await start(open, 'passes')
  await start(outside, 'free')
  await startedAt(open, 'passes')
  await startedAt(outside, 'free')
  const sentence = await eventually('the kubelet says why the pod is held', waitMs, async () => {
    const events = await there.kube.list<{ metadata: { name: string }; message?: string }>('events', '-n', closed, '--field-selector', 'involvedObject.name=held,reason=FailedCreatePodSandBox') as { message?: string }[]
    return events.map(({ message }) => message).find((message) => message?.includes('sidestep-cni'))
  })
  expect(sentence).toContain('waits for Sidestep\'s agent on this node')
  expect((await one(closed, 'held')).status.phase).toBe('Pending')
  // DEL does not fail, or this would not end.
  await there.kube.delete('pod', '-n', closed, 'goes', '--timeout=60s')
  await bringAgents()
  const { captured, running } = await startedAt(closed, 'held')
  expect(captured !== undefined && captured <= running).toBe(true)
}, 300_000)

test('somebody who writes the chain anew takes nothing away for long', async () => {
  const [node] = there.cluster?.nodes ?? []
  if (!node) return
  const text = await chainOf(node)
  const bare = withoutEntry(text)
  expect(bare).not.toBe(text)
  // In the machine: what is written below its disk from outside, it may not see.
  await node.machine.mustRun(['sh', '-ec', 'printf "%s\\n" "$1" > "$2.new"; mv "$2.new" "$2"', 'sh', bare, chain])
  await eventually('the plugin is back in the chain', waitMs, async () => ((await chainOf(node)).trim() === text.trim() ? true : undefined))
  await start(closed, 'after', node.name)
  const { captured, running } = await startedAt(closed, 'after')
  expect(captured !== undefined && captured <= running).toBe(true)
})
