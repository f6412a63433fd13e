// The questions that `sidestep demo --check` asks of the running shop: each claim that the demo makes, tried.
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { describeError } from '../core/errors.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import type { Demo } from './demo.ts'
import { table } from './status.ts'

interface Claim {
  readonly claim: string
  /** What was seen; throws where the claim does not hold. */
  readonly see: (demo: Demo) => Promise<string>
}

class NotSo extends Error {}

function hold(condition: boolean, otherwise: string): void {
  if (!condition) throw new NotSo(otherwise)
}

const claims: readonly Claim[] = [
  {
    claim: 'every pod of namespace shop is captured, and nobody else',
    see: async ({ client }) => {
      const { pods } = await client.status()
      const wrong = pods.filter((pod) => (pod.namespace === 'shop') !== (pod.captured === 'yes'))
      hold(wrong.length === 0, wrong.map((pod) => `${pod.namespace}/${pod.name} captured: ${pod.captured}`).join(', '))
      return `${pods.filter((pod) => pod.captured === 'yes').length} of ${pods.length} pods`
    },
  },
  {
    claim: 'the shop\'s connections go through the ztunnels on both sides',
    see: async (demo) => {
      const before = await Promise.all([demo.ztunnel('node-a'), demo.ztunnel('node-b')])
      await sleep(2_000)
      const after = await Promise.all([demo.ztunnel('node-a'), demo.ztunnel('node-b')])
      const grown = (node: 0 | 1, counter: string): number => (after[node].counters[counter] ?? 0) - (before[node].counters[counter] ?? 0)
      hold(grown(0, 'redirected') > 0 && grown(1, 'steered') > 0, 'no connection was redirected in two seconds')
      const failures = (states: readonly ZtunnelState[]): number => states.flatMap(({ pods }) => pods).reduce((sum, pod) => sum + pod.failed + pod.refused, 0)
      const failed = failures(after) - failures(before)
      hold(failed === 0, `${failed} connections failed or were refused`)
      return `${grown(0, 'redirected')} redirected, ${grown(1, 'steered')} delivered in 2 s, none failed`
    },
  },
  {
    claim: 'a server sees its client\'s own address',
    see: async (demo) => {
      const frontend = await podOf(demo, 'frontend')
      const { client } = await askCatalogue(demo, 'shop', frontend.name)
      hold(client === `::ffff:${frontend.ips[0]}`, `the catalogue saw ${client}, not ${frontend.ips[0]}`)
      return client
    },
  },
  {
    claim: 'both versions of the catalogue answer under one service address',
    see: async (demo) => {
      const frontend = await podOf(demo, 'frontend')
      const seen = new Set<string>()
      for (let turn = 0; turn < 20 && seen.size < 2; turn++) seen.add((await askCatalogue(demo, 'shop', frontend.name)).pod.slice(0, 12))
      hold(seen.size === 2, `only ${[...seen].join(', ')} answered`)
      return [...seen].toSorted().join(', ')
    },
  },
  {
    claim: 'a pod outside the mesh is served too',
    see: async (demo) => (await askCatalogue(demo, 'legacy', 'reporter')).pod,
  },
  {
    claim: 'an application cannot dial its ztunnel',
    see: async (demo) => {
      const frontend = await podOf(demo, 'frontend')
      const code = await inPod(demo, 'shop', frontend.name, ["require('net').connect(15001, process.env.IP).on('error', (e) => console.log(e.code))"], { IP: frontend.ips[0] ?? '' })
      hold(code.trim() === 'ECONNREFUSED', `the answer was ${code.trim()}`)
      return code.trim()
    },
  },
  {
    claim: 'a ztunnel killed with -9 is back, with the same hooks and counters',
    see: async (demo) => {
      const before = await demo.ztunnel('node-a')
      process.kill(before.pid, 'SIGKILL')
      const startedAt = performance.now()
      const frontend = await podOf(demo, 'frontend')
      for (;;) {
        const now = await demo.ztunnel('node-a').catch(() => undefined)
        if (now?.synced === true && now.pid !== before.pid) {
          hold((now.counters['redirected'] ?? 0) >= (before.counters['redirected'] ?? 0), 'the counters started again')
          break
        }
        hold(performance.now() - startedAt < 10_000, 'no ztunnel after 10 s')
        await sleep(20)
      }
      const awayMs = Math.round(performance.now() - startedAt)
      await askCatalogue(demo, 'shop', frontend.name)
      return `serving again after ${awayMs} ms`
    },
  },
]

/** Prints a table; whether every claim held. */
export async function runDemoChecks(demo: Demo, print: (text: string) => void): Promise<boolean> {
  const rows: string[][] = []
  for (const { claim, see } of claims) {
    print(`checking: ${claim}`)
    try {
      rows.push(['yes', claim, await see(demo)])
    } catch (error) {
      rows.push(['NO', claim, error instanceof NotSo ? error.message : describeError(error)])
    }
  }
  print(`\n${table(['HOLDS', 'CLAIM', 'SEEN'], rows)}`)
  return rows.every(([holds]) => holds === 'yes')
}

async function podOf(demo: Demo, deployment: string): Promise<{ name: string; ips: readonly string[] }> {
  const found = (await demo.client.status()).pods.find((pod) => pod.name.startsWith(`${deployment}-`))
  if (!found) throw new NotSo(`there is no pod of ${deployment}`)
  return found
}

async function askCatalogue(demo: Demo, namespace: string, pod: string): Promise<{ pod: string; client: string }> {
  const script = "require('http').get('http://10.96.0.20/check', { agent: false }, (r) => r.pipe(process.stdout)).on('error', (e) => console.error(e.code))"
  const text = await inPod(demo, namespace, pod, [script], {})
  try {
    const { pod: answered, client } = JSON.parse(text) as { pod?: unknown; client?: unknown }
    if (typeof answered === 'string' && typeof client === 'string') return { pod: answered, client }
  } catch {
    // Not JSON: said below.
  }
  throw new NotSo(`the catalogue answered ${JSON.stringify(text.slice(0, 200))}`)
}

/** Runs a line of JavaScript inside a pod, as `sidestep exec` would. */
async function inPod(demo: Demo, namespace: string, name: string, script: readonly string[], env: Record<string, string>): Promise<string> {
  const plan = await demo.client.execPlan({ namespace, name, command: ['node', '--eval', ...script] })
  const [file = '', ...args] = plan.argv
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env: { ...plan.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], timeout: 10_000 })
    let text = ''
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (chunk: string) => (text = (text + chunk).slice(0, 65_536)))
    child.on('error', reject)
    child.on('close', () => resolve(text))
  })
}
