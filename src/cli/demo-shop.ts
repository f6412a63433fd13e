// The running example shop as the demo and its checks ask it: over the mesh's API, the ztunnels' admin sockets, and by commands
// inside of pods. Whatever is asked here, any other client could ask as well.
import { spawn } from 'node:child_process'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import type { PodStatus } from '../model/local-status.ts'
import type { WireWatch } from '../model/wire-view.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import { ApiClient } from './api-client.ts'
import { requestCounts } from './requests.ts'
import type { RequestSample } from './requests.ts'
import { edgesOf, parseMetrics } from './traffic.ts'
import type { Edge, Series, TrafficSample } from './traffic.ts'
import { askZtunnel, ztunnelState, ztunnelText } from './ztunnel-client.ts'
import { localAddress } from './ztunnel-targets.ts'

/** What the demo needs beyond sockets; the composition root has it. */
export interface DemoTools {
  /** Watches what passes between the nodes of a mesh from now on. */
  watchWire(mesh: string): Promise<WireWatch>
}

const countsSchema = z.object({ ok: z.int(), failed: z.int(), last: z.string() })
const appCountsSchema = z.record(z.string(), countsSchema)
/** How an application's own requests went since it started, by whom it asked. */
export type AppCounts = z.infer<typeof appCountsSchema>
/** Of the stock and the catalogue; `failed` times the latter's new version has failed so far. */
export const catalogueAnswerSchema = z.object({ pod: z.string(), client: z.string(), failed: z.int().optional() })
export type CatalogueAnswer = z.infer<typeof catalogueAnswerSchema>

export class Shop {
  readonly name: string
  readonly client: ApiClient
  /** From which it runs. */
  readonly directory: string
  /** With shop and try in it. */
  readonly examples: string
  readonly tools: DemoTools

  constructor({ name, directory, examples, tools }: { name: string; directory: string; examples: string; tools: DemoTools }) {
    this.name = name
    this.client = new ApiClient(name)
    this.directory = directory
    this.examples = examples
    this.tools = tools
  }

  ztunnel(node: string): Promise<ZtunnelState> {
    return ztunnelState(localAddress(this.name, node))
  }

  askZtunnel<T>(node: string, schema: z.ZodType<T>, path: string): Promise<T> {
    return askZtunnel(localAddress(this.name, node), schema, path)
  }

  async nodes(): Promise<string[]> {
    return (await this.client.status()).nodes.map(({ name }) => name)
  }

  async metrics(node: string): Promise<Series[]> {
    return parseMetrics(await ztunnelText(localAddress(this.name, node), '/metrics'))
  }

  /** Of all ztunnels that answer. */
  async traffic(): Promise<TrafficSample> {
    const nodes = await this.nodes()
    const looks = await Promise.allSettled(nodes.map((node) => this.metrics(node)))
    const found = looks.flatMap((look, i): [string, Map<string, Edge>][] => (look.status === 'fulfilled' ? [[nodes[i] ?? '', edgesOf(look.value)]] : []))
    return { atMs: performance.now(), nodes: new Map(found) }
  }

  /** Of each process of that Gateway, or of all Gateways, that answers: pod to what it counts. */
  async proxies(gateway?: string): Promise<ReadonlyMap<string, readonly Series[]>> {
    const { gateways } = await this.client.status()
    const admin = gateways.filter(({ name }) => gateway === undefined || name === gateway).flatMap((each) => each.admin)
    const looks = await Promise.allSettled(admin.map(async ({ pod, socket }) => [pod, parseMetrics(await ztunnelText(socket, '/metrics'))] as const))
    return new Map(looks.flatMap((look) => (look.status === 'fulfilled' ? [look.value] : [])))
  }

  /** Names of the pods of all Gateways. */
  async gatewayPods(): Promise<ReadonlySet<string>> {
    return new Set((await this.client.status()).gateways.flatMap(({ admin }) => admin.map(({ pod }) => pod)))
  }

  async requests(): Promise<RequestSample> {
    const proxies = await this.proxies()
    return { atMs: performance.now(), proxies: new Map([...proxies].map(([pod, series]) => [pod, requestCounts(series)])) }
  }

  /** The pod of that name, or the first that a Deployment of that name made. */
  async pod(namespace: string, name: string): Promise<PodStatus> {
    const found = (await this.client.status()).pods
      .find((pod) => pod.namespace === namespace && pod.phase === 'Running' && (pod.name === name || pod.name.replace(/(-[a-z0-9]+){2}$/, '') === name))
    if (!found) throw new MeshError('NOT_FOUND', `there is no pod of ${namespace}/${name}`)
    return found
  }

  /** Runs a command inside a pod, as `sidestep exec` would: its exit code and what it wrote. */
  async run(namespace: string, name: string, command: readonly string[], timeoutMs = 10_000): Promise<{ readonly code: number; readonly text: string }> {
    const { name: pod } = await this.pod(namespace, name)
    return this.runIn(await this.plan(namespace, pod, command), timeoutMs)
  }

  plan(namespace: string, pod: string, command: readonly string[]): Promise<{ argv: string[]; env: Record<string, string> }> {
    return this.client.execPlan({ namespace, name: pod, command: [...command] })
  }

  runIn({ argv: [file = '', ...args], env }: { readonly argv: readonly string[]; readonly env: Readonly<Record<string, string>> }, timeoutMs = 10_000): Promise<{ code: number; text: string }> {
    return new Promise((resolve, reject) => {
      const child = spawn(file, args, { env: { ...env }, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'], timeout: timeoutMs, killSignal: 'SIGKILL' })
      let text = ''
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (chunk: string) => (text = (text + chunk).slice(0, 65_536)))
      child.on('error', reject)
      child.on('close', (code) => resolve({ code: code ?? 137, text }))
    })
  }

  /** Asks by HTTP from inside a pod, on a connection of its own. `code` is curl's: 0 where there was an answer. */
  ask(namespace: string, name: string, url: string, ...more: readonly string[]): Promise<{ readonly code: number; readonly text: string }> {
    return this.run(namespace, name, ['curl', '--silent', '--show-error', '--max-time', '5', ...more, url])
  }

  async askStock(namespace: string, name: string, url: string, ...more: readonly string[]): Promise<CatalogueAnswer> {
    const { text } = await this.ask(namespace, name, url, ...more)
    return readJson(catalogueAnswerSchema, text, 'the stock')
  }

  /** What an application says of its own requests. */
  async counts(namespace: string, name: string): Promise<AppCounts> {
    const { text } = await this.ask(namespace, name, 'http://127.0.0.1:9090/')
    return readJson(appCountsSchema, text, `${namespace}/${name}`)
  }
}

function readJson<T>(schema: z.ZodType<T>, text: string, who: string): T {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // Not JSON: said below.
  }
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw new MeshError('BAD_MESSAGE', `${who} answered ${JSON.stringify(text.slice(0, 200))}`, { source: 'upstream' })
  return parsed.data
}
