// A large mesh end to end: the real control plane as a process, told of pods over its socket and of objects by files, and a node's
// knowledge in another process, over TLS. How long until the node knows all, how long until one change counts there, what
// memory both take, and what a connection costs to decide. `node test/bench/scale.ts [--quick]` runs this part alone.
import { fork, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import type { Server, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { MeshError } from '../../src/core/errors.ts'
import type { FactLine } from '../../src/model/running-pod.ts'
import { cpuSeconds, residentBytes } from './process-usage.ts'
import { single, type Row } from './report.ts'
import { quantile } from './samples.ts'
import type { FromNode, ToNode } from './scale-node.ts'
import { fullScale, namespaceOf, podOf, quickScale, writeMesh, writePolicy, type ScaleSize } from './scale-world.ts'
import type { Bench } from './settings.ts'
import { Undo } from './undo.ts'

const controlPlaneProgram = fileURLToPath(new URL('../../src/bin/controlplane.ts', import.meta.url))
const nodeProgram = fileURLToPath(new URL('scale-node.ts', import.meta.url))
const nodeName = 'node-0'

export type ScaleBench = Pick<Bench, 'undo' | 'progress' | 'settleMs' | 'scale'>

const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6
const toMs = (ns: string): number => Number(BigInt(ns)) / 1e6

/** The one who tells which pods run. */
class Feed {
  readonly #server: Server
  #socket: Socket | undefined

  private constructor(server: Server) {
    this.#server = server
  }

  static async start(path: string, size: ScaleSize): Promise<Feed> {
    const server = createServer()
    const feed = new Feed(server)
    server.on('connection', (socket) => {
      feed.#socket = socket
      socket.on('error', () => socket.destroy())
      const count = size.services * size.podsPerService
      for (let i = 0; i < count; i++) feed.tell({ t: 'pod', pod: podOf(size, i) })
      feed.tell({ t: 'synced' })
    })
    server.listen(path)
    await once(server, 'listening')
    return feed
  }

  tell(line: FactLine): void {
    this.#socket?.write(`${JSON.stringify(line)}\n`)
  }

  close(): void {
    this.#socket?.destroy()
    this.#server.close()
  }
}

/** A port that nobody listened on a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new MeshError('COMMAND_FAILED', 'there is no free port')
  return address.port
}

interface ControlPlane {
  readonly process: ChildProcess
  readonly address: string
  readonly rootsFile: string
  readonly tokenFile: string
}

async function startControlPlane(directory: string, undo: Undo, flags: readonly string[]): Promise<ControlPlane> {
  const port = await freePort()
  const rootsFile = join(directory, 'roots.pem')
  const log = join(directory, 'controlplane.log')
  const child = spawn(process.execPath, [...flags, controlPlaneProgram], {
    stdio: ['ignore', openSync(log, 'w'), openSync(log, 'a')],
    env: {
      PATH: process.env['PATH'], SIDESTEP_LISTEN_ADDRESS: `127.0.0.1:${port}`, SIDESTEP_METRICS_ADDRESS: 'none',
      SIDESTEP_ADMIN_SOCKET: join(directory, 'admin.sock'), SIDESTEP_PODS_SOCKET: join(directory, 'facts.sock'),
      SIDESTEP_CONFIG_DIRECTORY: join(directory, 'config'), SIDESTEP_STATUS_FILE: join(directory, 'status.json'),
      SIDESTEP_CA_DIRECTORY: join(directory, 'ca'), SIDESTEP_TOKEN_KEY_FILE: join(directory, 'token.key'), SIDESTEP_TOKEN_DIRECTORY: join(directory, 'tokens'),
      SIDESTEP_NODES: nodeName, SIDESTEP_ROOTS_FILE: rootsFile,
    },
  })
  undo.add(() => ended(child))
  const deadline = nowMs() + 120_000
  while (!readFileSync(log, 'utf8').includes('control plane started')) {
    if (child.exitCode !== null || nowMs() > deadline) throw new MeshError('COMMAND_FAILED', `the control plane did not start: ${readFileSync(log, 'utf8').slice(-2000)}`)
    await sleep(5)
  }
  return { process: child, address: `127.0.0.1:${port}`, rootsFile, tokenFile: join(directory, 'tokens', `${nodeName}.token`) }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill('SIGTERM')
  if (await Promise.race([exit, sleep(5_000, 'late', { ref: false })]) === 'late') child.kill('SIGKILL')
  await exit
}

/** One answer for one question. */
async function ask<T extends FromNode['t']>(node: ChildProcess, question: ToNode, expected: T, act?: () => void): Promise<Extract<FromNode, { t: T }>> {
  const answer = once(node, 'message', { signal: AbortSignal.timeout(120_000) }) as Promise<[FromNode]>
  node.send(question)
  act?.()
  const [message] = await answer
  if (message.t !== expected) throw new MeshError('COMMAND_FAILED', `the node answered ${message.t}, not ${expected}`)
  return message as Extract<FromNode, { t: T }>
}

export async function measureScale({ undo, progress, settleMs, scale: size }: ScaleBench, flags: readonly string[] = []): Promise<Row[]> {
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-scale-'))
  undo.add(() => rmSync(directory, { recursive: true, force: true }))
  const config = join(directory, 'config')
  writeMesh(size, config)
  const feed = await undo.start(Feed.start(join(directory, 'facts.sock'), size), (made) => made.close())
  const endpoints = size.services * size.podsPerService
  progress(`control plane and node with ${size.services.toLocaleString('en')} services and ${endpoints.toLocaleString('en')} endpoints`)
  const startedMs = nowMs()
  const plane = await startControlPlane(directory, undo, flags)
  const planeMs = nowMs() - startedMs
  const planeCpuMs = cpuSeconds(plane.process.pid ?? 0) * 1000
  if (!existsSync(plane.tokenFile)) throw new MeshError('COMMAND_FAILED', 'the control plane wrote no token')
  const node = fork(nodeProgram, { execArgv: [...flags], env: { PATH: process.env['PATH'] } })
  undo.add(() => ended(node))
  const { address, rootsFile, tokenFile } = plane
  const ready = await ask(node, { t: 'start', options: { address, rootsFile, tokenFile, node: nodeName } }, 'ready')
  const nodeCpuMs = cpuSeconds(node.pid ?? 0) * 1000
  if (ready.workloads !== endpoints || ready.services !== size.services) throw new MeshError('COMMAND_FAILED', `the node knows ${ready.workloads} workloads and ${ready.services} services`)

  progress(`${size.changes} changes of pods, ${size.changes / 4} of policies`)
  const podMs: number[] = []
  for (let i = 0; i < size.changes; i++) {
    const pod = podOf(size, (i * 7919) % endpoints, false)
    podMs.push(await change(node, { t: 'await', workload: `Kubernetes//Pod/${pod.namespace}/${pod.name}`, isHealthy: false }, () => feed.tell({ t: 'pod', pod })))
  }
  const policyMs: number[] = []
  for (let i = 0; i < size.changes / 4; i++) {
    const at = (i * 7) % size.policies
    const policy = `${namespaceOf(size, at)}/policy-${at}`
    policyMs.push(await change(node, { t: 'awaitPolicy', policy, text: `revision-${i + 1}/` }, () => writePolicy(size, config, at, i + 1)))
  }

  progress('decisions')
  const decided = await ask(node, { t: 'decide', size, node: nodeName }, 'decided')
  if (decided.reached < size.decisions) throw new MeshError('COMMAND_FAILED', `only ${decided.reached} of ${2 * size.decisions} found an endpoint`)
  await sleep(settleMs)
  const rows = (name: string, unit: string, samples: readonly number[]): Row[] =>
    ([['p50', 0.5], ['p99', 0.99]] as const).map(([label, share]) => single('scale', `${name}, ${label}`, unit, quantile(samples, share)))
  const both = decided.ns.map((ns) => ns / 1000)
  return [
    single('scale', `control plane, from start to serving (${size.services.toLocaleString('en')} services, ${endpoints.toLocaleString('en')} endpoints, ${size.policies.toLocaleString('en')} policies)`, 'ms', planeMs),
    single('scale', 'processor time of the control plane until then, all threads', 'ms', planeCpuMs),
    single('scale', 'a new node, from dialling to knowing all of it', 'ms', toMs(ready.atNs) - toMs(ready.startedNs)),
    single('scale', 'processor time of that node\'s process until then, its start included', 'ms', nodeCpuMs),
    single('scale', 'longest stall of that node meanwhile', 'ms', ready.longestStallMs),
    ...rows('one pod changes: until a node knows', 'ms', podMs),
    ...rows('one policy\'s file changes: until a node knows', 'ms', policyMs),
    ...rows('one connection: where it goes and whether it may, first ones', 'us', both.slice(0, size.decisions)),
    ...rows('one connection: where it goes and whether it may, later ones', 'us', both.slice(size.decisions)),
    single('scale', 'memory of the control plane', 'MiB', residentBytes(plane.process.pid ?? 0) / 2 ** 20),
    single('scale', 'memory of the node\'s knowledge', 'MiB', residentBytes(node.pid ?? 0) / 2 ** 20),
  ]
}

/** One change that comes alone: changes in quick succession wait for each other, which is what the server gathers them for. */
async function change(node: ChildProcess, question: ToNode, act: () => void): Promise<number> {
  await sleep(150 + Math.random() * 50)
  let fromMs = 0
  const { atNs } = await ask(node, question, 'inForce', () => {
    fromMs = nowMs()
    act()
  })
  return toMs(atNs) - fromMs
}

if (import.meta.main) {
  const undo = new Undo()
  process.once('SIGINT', () => void undo.run().then(() => process.exit(130)))
  try {
    const flags = process.argv.includes('--profile') ? ['--cpu-prof', '--cpu-prof-dir=build/bench'] : []
    const scale = process.argv.includes('--quick') ? quickScale : fullScale
    const progress = (text: string): void => void process.stderr.write(`scale: ${text}\n`)
    for (const { name, unit, measured } of await measureScale({ undo, progress, settleMs: 500, scale }, flags)) {
      console.log(`${name.padEnd(110)} ${measured.median.toFixed(2).padStart(10)} ${unit}`)
    }
  } finally {
    await undo.run()
  }
}
