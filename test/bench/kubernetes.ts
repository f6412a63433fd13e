// A large cluster end to end: a real API server, the real control plane as a process that watches it, and a hundred discovery clients
// with projected tokens of nodes that nobody runs. How long from a write to the API until all of them acknowledged it, and what it
// costs, with few pods and with many. `node test/bench/kubernetes.ts [--quick] [--profile]` runs this part alone.
import { fork, spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describeError, MeshError } from '../../src/core/errors.ts'
import { controlPlaneName, systemNamespace } from '../../src/model/kubernetes-names.ts'
import { ApiServer } from '../kube/api-server.ts'
import type { Awaited, FromNodes, ToNodes } from './kubernetes-nodes.ts'
import { fullKubernetes, KubernetesWorld, quickKubernetes, type KubernetesSize } from './kubernetes-world.ts'
import { cpuSeconds, residentBytes } from './process-usage.ts'
import type { Row } from './report.ts'
import { quantile, spreadOf } from './samples.ts'
import type { Bench } from './settings.ts'
import { Undo } from './undo.ts'

const controlPlaneProgram = fileURLToPath(new URL('../../src/bin/controlplane.ts', import.meta.url))
const nodesProgram = fileURLToPath(new URL('kubernetes-nodes.ts', import.meta.url))
/** Two processors at most work on a change after the control plane did. */
const nodeProcesses = 2

export type KubernetesBench = Pick<Bench, 'undo' | 'progress' | 'settleMs' | 'kubernetes'>

const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  if (await Promise.race([exit, sleep(5_000, 'late', { ref: false })]) === 'late') child.kill('SIGKILL')
  await exit
}

interface Running {
  readonly process: ChildProcess
  readonly address: string
  readonly log: string
}

async function startControlPlane(directory: string, kubeconfig: string, undo: Undo, flags: readonly string[]): Promise<Running> {
  mkdirSync(directory)
  const log = join(directory, 'controlplane.log')
  const output = openSync(log, 'w')
  const child = spawn(process.execPath, [...flags, controlPlaneProgram], {
    stdio: ['ignore', output, output],
    env: {
      PATH: process.env['PATH'], KUBECONFIG: kubeconfig, SIDESTEP_SOURCE: 'kubernetes',
      SIDESTEP_POD_NAMESPACE: systemNamespace, SIDESTEP_POD_NAME: `${controlPlaneName}-bench`,
      SIDESTEP_LISTEN_ADDRESS: '127.0.0.1:0', SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_ADMIN_SOCKET: join(directory, 'admin.sock'),
    },
  })
  closeSync(output)
  undo.add(() => ended(child))
  const deadline = nowMs() + 120_000
  for (;;) {
    const said = readFileSync(log, 'utf8')
    const port = /"port":(\d+)[^\n]*"control plane started"/.exec(said)?.[1]
    if (port !== undefined) return { process: child, address: `127.0.0.1:${port}`, log }
    if (child.exitCode !== null || nowMs() > deadline) throw new MeshError('COMMAND_FAILED', `the control plane did not start: ${said.slice(-3000)}`)
    await sleep(5)
  }
}

/** The simulated ztunnels of all processes, as one. */
class Ztunnels {
  readonly #processes: readonly ChildProcess[]

  private constructor(processes: readonly ChildProcess[]) {
    this.#processes = processes
  }

  static async start(
    plane: Running, rootsFile: string, tokens: readonly string[], undo: Undo,
  ): Promise<{ ztunnels: Ztunnels; readyMs: number; workloads: readonly number[] }> {
    const options = { env: { PATH: process.env['PATH'] }, execArgv: ['--max-old-space-size=4096'] }
    const processes = Array.from({ length: nodeProcesses }, () => fork(nodesProgram, options))
    for (const child of processes) undo.add(() => ended(child))
    await Promise.all(processes.map((child) => answer(child, 'up')))
    const startedMs = nowMs()
    const ready = await Promise.all(processes.map((child, index) => {
      const nodes = tokens.flatMap((token, node) => (node % nodeProcesses === index ? [{ name: `node-${node}`, token }] : []))
      return ask(child, { t: 'start', options: { address: plane.address, rootsFile, nodes } }, 'ready')
    }))
    return { ztunnels: new Ztunnels(processes), readyMs: nowMs() - startedMs, workloads: ready.flatMap(({ workloads }) => workloads) }
  }

  cpuMs(): number {
    return this.#processes.reduce((sum, { pid }) => sum + cpuSeconds(pid ?? 0) * 1_000, 0)
  }

  /** Milliseconds from just before `act`, or from what it gives back, until the first and until all had acknowledged. */
  async change(awaited: Awaited, act: () => Promise<number | void>): Promise<{ readonly firstMs: number; readonly allMs: number }> {
    const inForce = this.#processes.map((child) => answer(child, 'inForce'))
    await Promise.all(this.#processes.map((child) => ask(child, { t: 'await', awaited }, 'waiting')))
    const startedMs = nowMs()
    const fromMs = await act() ?? startedMs
    const times = (await Promise.all(inForce)).flatMap(({ atNs }) => atNs.map((ns) => Number(BigInt(ns)) / 1e6 - fromMs))
    return { firstMs: Math.min(...times), allMs: Math.max(...times) }
  }

  async stop(): Promise<void> {
    await Promise.all(this.#processes.map(ended))
  }
}

function answer<T extends FromNodes['t']>(child: ChildProcess, expected: T): Promise<Extract<FromNodes, { t: T }>> {
  return new Promise((done, fail) => {
    const timer = setTimeout(() => finish(() => fail(new MeshError('COMMAND_FAILED', `the simulated ztunnels did not say ${expected}`))), 180_000)
    const onExit = (): void => finish(() => fail(new MeshError('COMMAND_FAILED', 'the simulated ztunnels ended')))
    const onMessage = (message: FromNodes): void => {
      if (message.t === expected) finish(() => done(message as Extract<FromNodes, { t: T }>))
    }
    const finish = (settle: () => void): void => {
      clearTimeout(timer)
      child.off('message', onMessage)
      child.off('exit', onExit)
      settle()
    }
    child.on('message', onMessage)
    child.once('exit', onExit)
  })
}

function ask<T extends FromNodes['t']>(child: ChildProcess, question: ToNodes, expected: T): Promise<Extract<FromNodes, { t: T }>> {
  const answered = answer(child, expected)
  child.send(question)
  return answered
}

/** Requests of the control plane so far. */
function asked(server: ApiServer): number {
  return [...server.audited().values()].reduce((sum, count) => sum + count, 0)
}

type Figures = ReadonlyMap<string, { readonly unit: string; readonly value: number }>

/** What the control plane has used so far, and what it uses when nothing changes. */
interface Usage {
  readonly cpuMs: () => number
  readonly requests: () => number
  rest: { readonly cpuMs: number; readonly requests: number }
}

class Measuring {
  readonly figures = new Map<string, { readonly unit: string; readonly value: number }>()
  readonly #ztunnels: Ztunnels
  readonly #usage: Usage
  readonly #firstMs: number[] = []

  constructor(ztunnels: Ztunnels, usage: Usage) {
    this.#ztunnels = ztunnels
    this.#usage = usage
  }

  add(name: string, unit: string, value: number): void {
    this.figures.set(name, { unit, value })
  }

  /** For each second of rest. */
  async rest(forMs: number): Promise<void> {
    const usage = this.#usage
    const before = { cpuMs: usage.cpuMs(), requests: usage.requests(), ms: nowMs() }
    await sleep(forMs)
    const seconds = (nowMs() - before.ms) / 1_000
    usage.rest = { cpuMs: (usage.cpuMs() - before.cpuMs) / seconds, requests: (usage.requests() - before.requests) / seconds }
    this.add('requests of the control plane at rest', 'calls/s', usage.rest.requests)
    this.add('processor time of the control plane at rest, of one core', '%', usage.rest.cpuMs / 10)
  }

  /**
   * Changes that come alone: those in quick succession wait for each other, which is what the server gathers them for. What the
   * control plane uses for one is what it used beyond its rest.
   */
  async each(name: string, count: number, one: (i: number) => { readonly awaited: Awaited; readonly act: () => Promise<number | void> }): Promise<void> {
    const usage = this.#usage
    const before = { cpuMs: usage.cpuMs(), requests: usage.requests(), clients: this.#ztunnels.cpuMs(), ms: nowMs() }
    const samples: number[] = []
    for (let i = 0; i < count; i++) {
      await sleep(150 + Math.random() * 50)
      const { awaited, act } = one(i)
      const { firstMs, allMs } = await this.#ztunnels.change(awaited, act)
      samples.push(allMs)
      this.#firstMs.push(firstMs)
    }
    const seconds = (nowMs() - before.ms) / 1_000
    const beyondRest = (now: number, then: number, rest: number): number => Math.max(0, now - then - rest * seconds) / count
    const clientsMs = (this.#ztunnels.cpuMs() - before.clients) / count
    this.add(`${name}: until all acknowledged, p50`, 'ms', quantile(samples, 0.5))
    this.add(`${name}: until all acknowledged, p99`, 'ms', quantile(samples, 0.99))
    this.add(`${name}: processor time of the control plane`, 'ms', beyondRest(usage.cpuMs(), before.cpuMs, usage.rest.cpuMs))
    this.add(`${name}: processor time of all ztunnels`, 'ms', clientsMs)
    this.add(`${name}: requests to the API server`, 'calls', beyondRest(usage.requests(), before.requests, usage.rest.requests))
  }

  /** Of everything that was measured so far, in the median. */
  get firstMs(): number {
    return quantile(this.#firstMs, 0.5)
  }
}

interface Context {
  readonly size: KubernetesSize
  readonly server: ApiServer
  readonly world: KubernetesWorld
  readonly tokens: readonly string[]
  readonly directory: string
  /** Of the control plane. */
  readonly kubeconfig: string
  readonly bench: KubernetesBench
  readonly flags: readonly string[]
}

async function measureAt(pods: number, { size, server, world, tokens, directory, kubeconfig, bench, flags }: Context): Promise<Figures> {
  const { progress, settleMs } = bench
  const undo = new Undo()
  bench.undo.add(() => undo.run())
  const half = Math.ceil(size.changes / 2)
  try {
    progress(`control plane of ${pods.toLocaleString('en')} pods and ${size.services.toLocaleString('en')} services`)
    const before = asked(server)
    const startedMs = nowMs()
    const plane = await startControlPlane(join(directory, String(pods)), kubeconfig, undo, flags)
    const planeMs = nowMs() - startedMs
    const pid = plane.process.pid ?? 0
    const planeCpuMs = cpuSeconds(pid) * 1_000
    const startRequests = asked(server) - before
    const rootsFile = join(directory, `${pods}.pem`)
    writeFileSync(rootsFile, await world.roots())
    const { ztunnels, readyMs, workloads } = await Ztunnels.start(plane, rootsFile, tokens, undo).catch((error: unknown) => {
      throw new MeshError('COMMAND_FAILED', `${describeError(error)} The control plane says: ${readFileSync(plane.log, 'utf8').slice(-3000)}`)
    })
    const wrong = workloads.filter((count) => count < pods)
    if (wrong.length > 0) throw new MeshError('COMMAND_FAILED', `${wrong.length} simulated ztunnels know too little: ${wrong.slice(0, 5).join(', ')} of ${pods} workloads`)
    const toldCpuMs = cpuSeconds(pid) * 1_000 - planeCpuMs
    await sleep(settleMs)
    const measuring = new Measuring(ztunnels, {
      cpuMs: () => cpuSeconds(pid) * 1_000, requests: () => asked(server), rest: { cpuMs: 0, requests: 0 },
    })
    const residentMiB = residentBytes(pid) / 2 ** 20
    progress('the control plane at rest')
    await measuring.rest(size.idleMs)
    await changes(pods, size, world, measuring, progress)
    progress(`${half} labels change at once`)
    const many = await ztunnels.change(
      { t: 'revision', workloads: Array.from({ length: half }, (_, i) => world.workloadOf(i)), revision: `bench-${pods}-many` },
      async () => void await Promise.all(Array.from({ length: half }, (_, i) => world.relabel(i, `bench-${pods}-many`))),
    )
    measuring.add(`labels of ${half} pods change at once: until all acknowledged`, 'ms', many.allMs)
    measuring.add('any change that comes alone: until the first acknowledged, p50', 'ms', measuring.firstMs)
    measuring.add('control plane, from start to serving', 'ms', planeMs)
    measuring.add('processor time of the control plane until then, all threads', 'ms', planeCpuMs)
    measuring.add('its requests to the API server until then', 'calls', startRequests)
    measuring.add('all ztunnels at once, from dialling to knowing everything', 'ms', readyMs)
    measuring.add('processor time of the control plane for that', 'ms', toldCpuMs)
    measuring.add('memory of the control plane then', 'MiB', residentMiB)
    measuring.add('memory of the control plane after all changes', 'MiB', residentBytes(pid) / 2 ** 20)
    return measuring.figures
  } finally {
    await undo.run()
  }
}

async function changes(pods: number, size: KubernetesSize, world: KubernetesWorld, measuring: Measuring, progress: (text: string) => void): Promise<void> {
  const half = Math.ceil(size.changes / 2)
  progress(`${size.changes} labels change`)
  await measuring.each('a pod\'s label changes', size.changes, (i) => {
    const at = (i * 7919) % pods
    const revision = `bench-${pods}-${i}`
    return { awaited: { t: 'revision', workloads: [world.workloadOf(at)], revision }, act: () => world.relabel(at, revision) }
  })
  progress(`${half} pods come, and go`)
  await measuring.each('a pod becomes ready', half, (i) => {
    let readyAtMs = 0
    return {
      awaited: { t: 'healthy', workloads: [world.workloadOf(pods + i)] },
      act: async () => {
        await world.addPod(pods + i, async () => {
          // The kubelet takes a while from one to the other.
          await sleep(100)
          readyAtMs = nowMs()
        })
        return readyAtMs
      },
    }
  })
  await measuring.each('a pod goes', half, (i) => ({
    awaited: { t: 'gone', workloads: [world.workloadOf(pods + i)] }, act: () => world.removePod(pods + i),
  }))
  progress(`${Math.ceil(size.changes / 4)} policies come`)
  await measuring.each('a policy is made', Math.ceil(size.changes / 4), (i) => ({
    awaited: { t: 'policy', policy: `${world.namespaceOf(pods + i)}/bench-${pods + i}` }, act: async () => void await world.addPolicy(pods + i),
  }))
}

/** With few pods beside with many; the ratio is the growth. */
export async function measureKubernetes(bench: KubernetesBench, flags: readonly string[] = []): Promise<Row[]> {
  const { undo, progress, kubernetes: size } = bench
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-kubernetes-'))
  undo.add(() => rmSync(directory, { recursive: true, force: true }))
  progress('an API server, building it where it is missing')
  const audit = `system:serviceaccount:${systemNamespace}:${controlPlaneName}`
  const server = await undo.start(ApiServer.start({ say: progress, audit }), (made) => made.stop())
  const api = await server.client()
  undo.add(() => api.close())
  const world = new KubernetesWorld(api, size)
  await world.make()
  const tokens = await Promise.all(Array.from({ length: size.nodes }, (_, node) => world.token(node)))
  const kubeconfig = await server.kubeconfigWith(await world.controlPlaneToken())
  const context: Context = { size, server, world, tokens, directory, kubeconfig, bench, flags }
  const [few, many] = size.pods
  progress(`writing ${few.toLocaleString('en')} pods`)
  await world.growTo(few)
  const first = await measureAt(few, context)
  progress(`writing ${(many - few).toLocaleString('en')} more pods`)
  await world.growTo(many)
  const second = await measureAt(many, context)
  return [...second].map(([name, { unit, value }]): Row => {
    const baseline = first.get(name)?.value ?? Number.NaN
    const growth = value / baseline
    return {
      part: 'kubernetes', name, unit, baseline: spreadOf([baseline]), measured: spreadOf([value]),
      // From nothing nothing grows.
      ...(Number.isFinite(growth) && { ratio: spreadOf([growth]) }),
    }
  })
}

if (import.meta.main) {
  const undo = new Undo()
  process.once('SIGINT', () => void undo.run().then(() => process.exit(130)))
  try {
    const flags = process.argv.includes('--profile') ? ['--cpu-prof', '--cpu-prof-dir=build/bench'] : []
    const kubernetes = process.argv.includes('--quick') ? quickKubernetes : fullKubernetes
    const startedMs = nowMs()
    const progress = (text: string): void => void process.stderr.write(`kubernetes: ${((nowMs() - startedMs) / 1_000).toFixed(0)} s  ${text}\n`)
    for (const { name, unit, baseline, measured } of await measureKubernetes({ undo, progress, settleMs: 2_000, kubernetes }, flags)) {
      console.log(`${name.padEnd(100)} ${(baseline?.median ?? 0).toFixed(2).padStart(10)} ${measured.median.toFixed(2).padStart(10)} ${unit}`)
    }
  } finally {
    await undo.run()
  }
}
