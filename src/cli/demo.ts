// `sidestep demo`: the example shop as a real mesh on this machine, watched until Ctrl-C; with --check it is questioned
// instead, and the answers decide the exit code. It speaks to the mesh only as any client would, and leaves nothing.
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { describeError } from '../core/errors.ts'
import { localStateRoot } from '../model/local-status.ts'
import type { LocalStatus } from '../model/local-status.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import { ApiClient } from './api-client.ts'
import { runDemoChecks } from './demo-checks.ts'
import { statusTable, table } from './status.ts'
import { progress } from './up.ts'
import type { LocalControl } from './up.ts'
import { ztunnelState } from './ztunnel-client.ts'

const readyTimeoutMs = 60_000

/** The running demo as the checks see it. */
export interface Demo {
  readonly name: string
  readonly client: ApiClient
  ztunnel(node: string): Promise<ZtunnelState>
}

export function demoCommand(control: LocalControl, directory: string, print: (text: string) => void = console.log): Command {
  return new Command('demo')
    .description('run the example shop as a mesh on this machine until Ctrl-C')
    .option('--check', 'verify what the demo claims, print a table and leave with 0 or 1')
    .option('--name <name>', 'name of the mesh', 'demo')
    .action(async (options: { check?: boolean; name: string }) => {
      const { name } = options
      const interrupted = new AbortController()
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => interrupted.abort())
      await control.cleanUp(name) // what an interrupted demo left
      print(`starting the example shop from ${directory} as mesh ${name}`)
      try {
        await control.startDaemon({ directory, name, nodes: 2, mesh: true })
        const demo: Demo = {
          name,
          client: new ApiClient(name),
          ztunnel: (node) => ztunnelState(`${localStateRoot}/${name}/${node}-ztunnel.sock`),
        }
        const status = await becomeReady(demo, interrupted.signal, print)
        if (!status) return
        print(`\n${statusTable(status)}\n`)
        if (options.check === true) process.exitCode = (await runDemoChecks(demo, print)) ? 0 : 1
        else await watch(demo, interrupted.signal, print)
      } finally {
        print('\ntaking it down')
        const { problems } = await control.cleanUp(name)
        for (const problem of problems) print(`could not remove: ${problem}`)
        print(problems.length === 0 ? 'nothing is left' : 'run `sidestep down` again once that is resolved')
      }
    })
}

async function becomeReady(demo: Demo, signal: AbortSignal, print: (text: string) => void): Promise<LocalStatus | undefined> {
  const deadline = performance.now() + readyTimeoutMs
  for (let said = ''; !signal.aborted; await sleep(100)) {
    const status = await demo.client.status()
    const line = progress(status)
    if (line !== said) print(line)
    said = line
    if (status.ready || performance.now() > deadline) return status
  }
  return undefined
}

async function watch(demo: Demo, signal: AbortSignal, print: (text: string) => void): Promise<void> {
  print(explanation(demo.name))
  const everyMs = process.stdout.isTTY ? 2_000 : 10_000
  let before = await sample(demo)
  while (!signal.aborted) {
    try {
      await sleep(everyMs, undefined, { signal })
    } catch {
      return // Ctrl-C is how this ends
    }
    const now = await sample(demo)
    print(`\n${ratesTable(before, now, everyMs / 1_000)}`)
    before = now
  }
}

type Sample = ReadonlyMap<string, ZtunnelState['pods'][number] & { node: string }>

async function sample(demo: Demo): Promise<Sample> {
  const found = new Map<string, ZtunnelState['pods'][number] & { node: string }>()
  for (const node of (await demo.client.status()).nodes) {
    try {
      for (const pod of (await demo.ztunnel(node.name)).pods) found.set(`${pod.namespace}/${pod.name}`, { ...pod, node: node.name })
    } catch (error) {
      // It may be starting again: somebody tried what we told them to try.
      process.stderr.write(`${node.name}: ${describeError(error)}\n`)
    }
  }
  return found
}

export function ratesTable(before: Sample, now: Sample, seconds: number): string {
  const rows = [...now].map(([key, pod]) => {
    const was = before.get(key)
    const rate = (field: 'outbound' | 'inbound' | 'bytesSent' | 'bytesReceived' | 'failed' | 'refused'): string =>
      (Math.max(0, pod[field] - (was?.[field] ?? 0)) / seconds).toFixed(1)
    return [key, pod.node, rate('outbound'), rate('inbound'), String(pod.open), rate('bytesSent'), rate('bytesReceived'), rate('failed'), rate('refused')]
  })
  return table(['CAPTURED POD', 'NODE', 'OUT/S', 'IN/S', 'OPEN', 'SENT B/S', 'RECEIVED B/S', 'FAILED/S', 'REFUSED/S'], rows)
}

function explanation(name: string): string {
  return `Pods of namespace shop are captured: every TCP connection and DNS query of theirs goes through the ztunnel of its
node, redirected by eBPF alone. Namespace legacy is not in the mesh.

  logs      ${localStateRoot}/${name}/logs/
  state     npm run sidestep -- status --name ${name}
            curl --unix-socket ${localStateRoot}/${name}/node-a-ztunnel.sock http://ztunnel/state

Things to try, in another terminal:
  1. put namespace legacy into the mesh: add the label sidestep.dev/mesh: enabled in examples/shop/legacy.yaml
  2. look from inside a pod: npm run sidestep -- exec --name ${name} legacy/reporter -- curl -s http://10.96.0.20/
  3. kill a ztunnel: kill -9 its pid (in its state), and watch the hooks hold until it is back

Ctrl-C ends it and leaves nothing behind.`
}
