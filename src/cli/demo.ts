// `sidestep demo`: the example shop as a real mesh on this machine, watched until Ctrl-C; with --check it is questioned
// instead, and the answers decide the exit code. It speaks to the mesh only as any client would, and leaves nothing.
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { localStateRoot } from '../model/local-status.ts'
import type { LocalStatus } from '../model/local-status.ts'
import { certificateViewSchema, policyViewSchema } from '../model/ztunnel-views.ts'
import { runDemoChecks } from './demo-checks.ts'
import { Shop } from './demo-shop.ts'
import type { DemoTools } from './demo-shop.ts'
import { liveView, requestsView, summary, thingsToTry, tunnelsText } from './demo-view.ts'
import type { LiveFacts, ZtunnelFacts } from './demo-view.ts'
import { statusTable } from './status.ts'
import { progress } from './up.ts'
import type { LocalControl } from './up.ts'

const readyTimeoutMs = 60_000

/** `examples` has the directories shop and try. */
export function demoCommand(control: LocalControl, tools: DemoTools, examples: string, print: (text: string) => void = console.log): Command {
  return new Command('demo')
    .description('run the example shop as a mesh on this machine until Ctrl-C')
    .option('--check', 'verify what the demo claims, print a table and leave with 0 or 1')
    .option('--name <name>', 'name of the mesh', 'demo')
    .addHelpText('after', '\nExamples:\n  npm start\n  npm start -- --check')
    .action(async (options: { check?: boolean; name: string }) => {
      const { name, check: isCheck = false } = options
      const interrupted = new AbortController()
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupted.abort())
      // Whoever read what we print has gone, as `head` does.
      process.stdout.on('error', () => interrupted.abort())
      await control.cleanUp(name) // what an interrupted demo left
      // The checks change a file, and that of the checkout is not theirs.
      const copy = isCheck ? mkdtempSync(join(tmpdir(), 'sidestep-demo-')) : undefined
      const directory = copy ?? join(examples, 'shop')
      if (copy !== undefined) {
        cpSync(join(examples, 'shop'), copy, { recursive: true })
        await publishElsewhere(join(copy, 'waypoint.yaml'))
      }
      print(`starting the example shop from ${join(examples, 'shop')} as mesh ${name}`)
      try {
        await control.startDaemon({ directory, name, nodes: 2, mesh: true, publish: [] })
        const shop = new Shop({ name, directory, examples, tools })
        const status = await becomeReady(shop, interrupted.signal, print)
        if (!status) return
        // Of this process: set-up, which npm start does before, is over.
        print(`\nthe shop serves, ${(performance.now() / 1_000).toFixed(1)} s after it was asked for\n`)
        print(summary(status, await ztunnelFacts(shop), directory))
        if (isCheck) {
          print('')
          process.exitCode = (await runDemoChecks(shop, interrupted.signal, print)) ? 0 : 1
        } else {
          print(`\n${thingsToTry(name, directory, examples)}\n`)
          await watch(shop, interrupted.signal, print)
        }
      } finally {
        print('\ntaking it down')
        const { problems } = await control.cleanUp(name)
        if (copy !== undefined) rmSync(copy, { recursive: true, force: true })
        for (const problem of problems) print(`could not remove: ${problem}`)
        print(problems.length === 0 ? 'nothing is left' : 'run `sidestep down` again once that is resolved')
      }
    })
}

/** Whoever checks may not be the only one: a port of this machine that nobody has. */
async function publishElsewhere(file: string): Promise<void> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  const text = readFileSync(file, 'utf8')
  const changed = text.replace('8088=80', `${typeof address === 'object' && address ? address.port : 0}=80`)
  if (changed === text) throw new MeshError('BAD_MANIFEST', `${file} does not publish its ingress where it did`)
  writeFileSync(file, changed)
}

/** Undefined where somebody interrupts. COMMAND_FAILED, with all there is to know, where it does not get there. */
async function becomeReady({ client, name }: Shop, signal: AbortSignal, print: (text: string) => void): Promise<LocalStatus | undefined> {
  const deadline = performance.now() + readyTimeoutMs
  for (let said = ''; !signal.aborted; await sleep(100)) {
    const status = await client.status()
    const line = progress(status)
    if (line !== said) print(line)
    said = line
    if (status.ready) return status
    if (performance.now() > deadline) {
      print(statusTable(status))
      throw new MeshError('COMMAND_FAILED', `the shop is not ready after ${readyTimeoutMs / 1_000} s; the logs were in ${localStateRoot}/${name}/logs`)
    }
  }
  return undefined
}

/** Of those that answer. */
async function ztunnelFacts(shop: Shop): Promise<ReadonlyMap<string, ZtunnelFacts>> {
  const looks = await Promise.allSettled((await shop.nodes()).map(async (node): Promise<[string, ZtunnelFacts]> => {
    const { pid } = await shop.ztunnel(node)
    return [node, {
      pid, metrics: await shop.metrics(node),
      certificates: await shop.askZtunnel(node, z.array(certificateViewSchema), '/certificates'),
      policies: await shop.askZtunnel(node, z.array(policyViewSchema), '/policies'),
    }]
  }))
  return new Map(looks.flatMap((look) => (look.status === 'fulfilled' ? [look.value] : [])))
}

async function watch(shop: Shop, signal: AbortSignal, print: (text: string) => void): Promise<void> {
  const { isTTY, columns } = process.stdout
  const everyMs = isTTY ? 2_000 : 10_000
  let [before, requestsBefore] = [await shop.traffic(), await shop.requests()]
  for (let lines = 0; ;) {
    try {
      await sleep(everyMs, undefined, { signal })
    } catch {
      return // Ctrl-C is how this ends
    }
    const [now, requests] = [await shop.traffic(), await shop.requests()]
    const text = `${liveView(before, now, await factsOf(shop, now.nodes))}\n\n${requestsView(requestsBefore, requests)}`
    ;[before, requestsBefore] = [now, requests]
    // On a terminal the table stays in its place; a line that wraps would be counted wrong.
    const shown = isTTY ? text.split('\n').map((line) => line.slice(0, columns - 1)) : ['', ...text.split('\n')]
    print(`${isTTY && lines > 0 ? `\u001b[${lines}A\u001b[J` : ''}${shown.join('\n')}`)
    lines = shown.length
  }
}

async function factsOf(shop: Shop, answering: ReadonlyMap<string, unknown>): Promise<LiveFacts> {
  const { pods, nodes } = await shop.client.status()
  const metrics = await Promise.allSettled([...answering.keys()].map((node) => shop.metrics(node)))
  return {
    pods: pods.length,
    captured: pods.filter((pod) => pod.captured === 'yes').length,
    silent: nodes.map(({ name }) => name).filter((node) => !answering.has(node)),
    tunnels: tunnelsText(metrics.flatMap((look) => (look.status === 'fulfilled' ? [look.value] : []))),
  }
}
