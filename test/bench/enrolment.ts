// Enrolment of many pods on one node: the pods stand already (namespaces that hold a `sleep`), so that what is measured is
// a real ztunnel process capturing them, not processes being started. It is told by the same agent that `sidestep up` uses.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { silentLogger } from '../../src/core/log.ts'
import { bpfFileSystem } from '../../src/kernel/pins.ts'
import { Redirection } from '../../src/kernel/redirection.ts'
import { mapNames } from '../../src/kernel/maps.ts'
import { EnrolmentAgent } from '../../src/agent/enrolment-agent.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import type { PodEnrolment } from '../../src/model/enrolment.ts'
import { uniqueName } from '../helpers/instances.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { MeshError } from '../../src/core/errors.ts'
import { residentBytes } from './process-usage.ts'
import { single } from './report.ts'
import type { Row } from './report.ts'
import { quantile } from './samples.ts'
import type { Bench } from './settings.ts'

const ztunnelProgram = fileURLToPath(new URL('../../src/bin/ztunnel.ts', import.meta.url))

export async function measureEnrolment(bench: Bench): Promise<Row[]> {
  bench.progress(`making ${bench.pods} pods on one node`)
  const mesh = await bench.undo.start(startPods(bench.pods), (made) => made.stop(0))
  const pods = enrolments(mesh)
  const ztunnel = await startZtunnel(bench, mesh.nodeNetns('node-a'))
  await sleep(bench.settleMs)

  // One after the other, as pods come and go on a node.
  bench.progress(`enrolling ${pods.length} pods one by one`)
  const before = residentBytes(ztunnel.pid)
  const mapsBefore = mapBytes(ztunnel.instance)
  const oneByOne = await timed(pods, (pod) => capture(ztunnel.agent, pod))
  await sleep(bench.settleMs)
  const perPod = (residentBytes(ztunnel.pid) - before) / pods.length
  const maps = mapBytes(ztunnel.instance)
  const released = await timed(pods, (pod) => ztunnel.agent.remove(pod.uid))
  await sleep(bench.settleMs)

  // All at once, as after a restart of the ztunnel or when a namespace's label is set.
  bench.progress(`enrolling ${pods.length} pods at once`)
  const startedAt = performance.now()
  await Promise.all(pods.map((pod) => capture(ztunnel.agent, pod)))
  const allMs = performance.now() - startedAt

  const count = `${pods.length} pods`
  return [
    single('enrolment', `enrolment of ${count} one by one, each, p50`, 'ms', quantile(oneByOne, 0.5)),
    single('enrolment', `enrolment of ${count} one by one, each, p99`, 'ms', quantile(oneByOne, 0.99)),
    single('enrolment', `enrolment of ${count} at once, until all are captured`, 'ms', allMs),
    single('enrolment', `release of ${count} one by one, each, p50`, 'ms', quantile(released, 0.5)),
    single('enrolment', `memory of the ztunnel per pod (${count})`, 'KiB', perPod / 1024),
    single('enrolment', `memory of all eBPF maps with ${count}`, 'MiB', maps / 2 ** 20),
    single('enrolment', `growth of all eBPF maps per pod (${count})`, 'KiB', (maps - mapsBefore) / pods.length / 1024),
  ]
}

async function startPods(count: number): Promise<LocalMesh> {
  const manifests = `apiVersion: v1
kind: Namespace
metadata: {name: many}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: pod, namespace: many}
spec:
  replicas: ${count}
  template:
    metadata: {labels: {app: pod}}
    spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, command: [sleep, infinity]}]}`
  const mesh = await LocalMesh.start({ name: uniqueName('bench'), nodes: 1, mesh: false, manifests, logger: silentLogger })
  try {
    await mesh.waitReady(120_000)
    return mesh
  } catch (error) {
    await mesh.stop(0)
    throw error
  }
}

function enrolments(mesh: LocalMesh): PodEnrolment[] {
  return mesh.status().pods.map(({ namespace, name, ips }) => ({
    uid: name, namespace, name, serviceAccount: 'default', node: 'node-a', netns: mesh.podNetns(namespace, name), ips: [...ips],
    failureMode: 'closed', dns: true, probePorts: [],
  }))
}

interface RunningZtunnel {
  readonly instance: string
  readonly pid: number
  readonly agent: EnrolmentAgent
}

async function startZtunnel(bench: Bench, nodeNetns: string): Promise<RunningZtunnel> {
  const instance = uniqueName('bench')
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-bench-'))
  bench.undo.add(() => rmSync(directory, { recursive: true, force: true }))
  const agent = new EnrolmentAgent(join(directory, 'agent.sock'), silentLogger, () => {})
  await agent.listen()
  bench.undo.add(() => agent.close())
  // The hooks outlive the process on purpose; the process goes first.
  bench.undo.add(() => Redirection.remove(instance))
  const child = new LineProcess([process.execPath, ztunnelProgram], {
    wrap: ['nsenter', `--net=${nodeNetns}`, '--'],
    env: {
      SIDESTEP_INSTANCE: instance, SIDESTEP_HOST_NETNS: nodeNetns, SIDESTEP_LOG_LEVEL: 'warn',
      SIDESTEP_AGENT_SOCKET: join(directory, 'agent.sock'), SIDESTEP_ADMIN_SOCKET: join(directory, 'ztunnel.sock'),
    },
  })
  bench.undo.add(() => child.stop())
  await eventually('the ztunnel connects to its agent', async () => agent.isConnected, 20_000)
  return { instance, pid: child.pid, agent }
}

async function timed(pods: readonly PodEnrolment[], step: (pod: PodEnrolment) => Promise<void>): Promise<number[]> {
  const samples: number[] = []
  for (const pod of pods) {
    const startedAt = performance.now()
    await step(pod)
    samples.push(performance.now() - startedAt)
  }
  return samples
}

/** Resolves when the ztunnel says that the pod is captured. */
async function capture(agent: EnrolmentAgent, pod: PodEnrolment): Promise<void> {
  agent.set(pod)
  await agent.settled(pod.uid)
  if (agent.stateOf(pod.uid).t !== 'captured') throw new MeshError('COMMAND_FAILED', `${pod.name} was not captured`)
}

/** Kernel memory of an instance's maps, as bpftool tells it. */
function mapBytes(instance: string): number {
  return mapNames.reduce((sum, name) => {
    const path = join(bpfFileSystem(), 'sidestep', instance, 'maps', name)
    const shown: unknown = JSON.parse(execFileSync('bpftool', ['-j', 'map', 'show', 'pinned', path], { encoding: 'utf8' }))
    const bytes = typeof shown === 'object' && shown !== null && 'bytes_memlock' in shown ? Number(shown.bytes_memlock) : 0
    return sum + bytes
  }, 0)
}
