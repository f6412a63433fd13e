// A node of the scale part, as a process of its own: what a ztunnel knows of the mesh and decides with it, without the connections.
// Driven over the channel of fork(): `node test/bench/scale-node.ts` alone does nothing.
import { readFile } from 'node:fs/promises'
import { silentLogger } from '../../src/core/log.ts'
import { WorkloadStore } from '../../src/model/workload-store.ts'
import { resolveDestination } from '../../src/policy/destination.ts'
import { Rbac } from '../../src/policy/rbac.ts'
import { XdsClient } from '../../src/xds/client.ts'
import { vipOf, type ScaleSize } from './scale-world.ts'

export interface NodeOptions {
  readonly address: string
  readonly rootsFile: string
  readonly tokenFile: string
  readonly node: string
}

export type ToNode =
  | { readonly t: 'start'; readonly options: NodeOptions }
  /** Tell when this is in force. */
  | { readonly t: 'await'; readonly workload: string; readonly isHealthy: boolean }
  | { readonly t: 'awaitPolicy'; readonly policy: string; readonly text: string }
  | { readonly t: 'decide'; readonly size: ScaleSize; readonly node: string }

export type FromNode =
  | { readonly t: 'ready'; readonly startedNs: string; readonly atNs: string; readonly workloads: number; readonly services: number; readonly longestStallMs: number }
  | { readonly t: 'inForce'; readonly atNs: string }
  /** Nanoseconds of each decision, and how many found an endpoint and were allowed. */
  | { readonly t: 'decided'; readonly ns: readonly number[]; readonly reached: number; readonly allowed: number }

const store = new WorkloadStore()
const rbac = new Rbac(store.policies)
let waitingFor: (() => boolean) | undefined

function tell(message: FromNode): void {
  process.send?.(message)
}

function look(): void {
  if (!waitingFor?.()) return
  waitingFor = undefined
  tell({ t: 'inForce', atNs: process.hrtime.bigint().toString() })
}

async function start({ address, rootsFile, tokenFile, node }: NodeOptions): Promise<void> {
  const startedNs = process.hrtime.bigint().toString()
  let longestStallMs = 0
  let tickMs = performance.now()
  const watch = setInterval(() => {
    longestStallMs = Math.max(longestStallMs, performance.now() - tickMs)
    tickMs = performance.now()
  }, 1)
  const client = new XdsClient({
    address, serverName: 'localhost', clusterId: 'Kubernetes', logger: silentLogger,
    roots: () => readFile(rootsFile, 'utf8'),
    token: () => readFile(tokenFile, 'utf8'),
    node: { id: `ztunnel~127.0.0.1~ztunnel-${node}.sidestep-system~sidestep-system.svc.cluster.local`, metadata: { NODE_NAME: node } },
    onDelta: (delta) => {
      store.apply(delta)
      look()
    },
  })
  client.start()
  await client.ready()
  clearInterval(watch)
  tell({
    t: 'ready', startedNs, atNs: process.hrtime.bigint().toString(), workloads: store.workloadCount, services: store.services.size,
    longestStallMs: Math.max(longestStallMs, performance.now() - tickMs),
  })
}

/**
 * What one connection costs to decide: at the client's node where it goes, at the server's whether it may. The first half are
 * mostly first connections to their services.
 */
function decide({ size, node: nodeName }: Extract<ToNode, { t: 'decide' }>): void {
  // Those of one node, as a ztunnel has them: what depends on a caller's place is kept with the service.
  const workloads = [...store.workloads()].filter(({ node }) => node === nodeName)
  const ns: number[] = []
  let reached = 0
  let allowed = 0
  let state = 1
  const random = (): number => (state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff) / 0x8000_0000
  for (let i = 0; i < size.decisions * 2; i++) {
    const source = workloads[Math.floor(random() * workloads.length)]
    if (!source) throw new Error('there are no workloads')
    const original = { ip: vipOf(Math.floor(random() * size.services)), port: 80 }
    const start = process.hrtime.bigint()
    const found = resolveDestination({ source, original, store, random })
    if (found.t === 'hbone') {
      const { workload } = found.hop
      const { trustDomain, namespace, serviceAccount } = source
      const verdict = rbac.evaluate(workload, {
        identity: { trustDomain, namespace, serviceAccount }, sourceIp: source.ips[0] ?? '', destination: { ip: workload.ips[0] ?? '', port: 8080 },
      })
      reached += 1
      if (verdict.allowed) allowed += 1
    }
    ns.push(Number(process.hrtime.bigint() - start))
  }
  tell({ t: 'decided', ns, reached, allowed })
}

process.on('message', (message: ToNode) => {
  switch (message.t) {
    case 'start':
      return void start(message.options)
    case 'await':
      waitingFor = () => store.workload(message.workload)?.isHealthy === message.isHealthy
      return look()
    case 'awaitPolicy':
      waitingFor = () => JSON.stringify(store.policies.get(message.policy)).includes(message.text)
      return look()
    case 'decide':
      return decide(message)
  }
})
process.on('disconnect', () => process.exit())
process.once('SIGTERM', () => process.exit())
