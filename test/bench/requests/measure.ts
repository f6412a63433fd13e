// Requests through a waypoint, beside Envoy and nginx doing the same: how many one core answers, how long they take at a rate that all
// can bear, what that costs, and how all of it grows with the number of routes.
import { describeError, MeshError } from '../../../src/core/errors.ts'
import { cpuSeconds, residentBytes } from '../process-usage.ts'
import { compareSetups } from '../report.ts'
import type { Row } from '../report.ts'
import { fetchEnvoy, fetchNginx } from '../rivals/fetch.ts'
import { inRounds } from '../samples.ts'
import type { Bench } from '../settings.ts'
import { runCommand } from '../../../src/local/command.ts'
import { h2load } from './h2load.ts'
import type { Load } from './h2load.ts'
import { protocolNames, protocols } from './protocols.ts'
import type { ProtocolName } from './protocols.ts'
import { proxyNames, RequestWorld } from './world.ts'
import type { ProxyName, Programs } from './world.ts'

const rate = 1_000

export interface MeasuredRequests {
  readonly rows: readonly Row[]
  readonly notes: readonly string[]
}

/** Without Envoy or nginx there are no ends to measure between: no rows, and a note. */
export async function measureRequests(bench: Bench, mayFetch: boolean): Promise<MeasuredRequests> {
  const programs = await findPrograms(mayFetch)
  if (typeof programs === 'string') return { rows: [], notes: [`Requests were not measured: ${programs}.`] }
  const { rounds, warmUps, seconds, routes: [first = 10, ...more] } = bench.requests
  bench.progress('requests: starting a mesh with a waypoint')
  const world = await RequestWorld.start(bench.undo, programs, first)
  const sides = <T>(measure: (name: ProxyName) => Promise<T>) => proxyNames.map((name) => [name, () => measure(name)] as const)
  const rows: Row[] = []
  for (const protocol of protocolNames) {
    const { title } = protocols[protocol]
    const measure = (perSecond: number | undefined) => (name: ProxyName) => load(world, name, protocol, first, seconds, perSecond)
    for (let i = 0; i < warmUps; i++) {
      bench.progress(`requests over ${title}, warming up, ${i + 1} of ${warmUps}`)
      for (const name of proxyNames) await measure(undefined)(name)
    }
    const onRound = (what: string) => (round: number): void => bench.progress(`requests over ${title}, ${what}, round ${round} of ${rounds}`)
    const fast = await inRounds(rounds, sides(measure(undefined)), onRound('as fast as they are answered'))
    const slow = await inRounds(rounds, sides(measure(rate)), onRound(`${rate} per second`))
    rows.push(
      compareSetups('l7', `requests, ${title}`, '1/s', fast, ({ perSecond }) => perSecond),
      compareSetups('l7', `requests per second of processor time, ${title}`, '1/s', fast, ({ requests, cpu }) => requests / cpu),
      compareSetups('l7', `p50 at ${rate.toLocaleString('en')}/s, ${title}`, 'ms', slow, ({ us }) => us.p50 / 1_000),
      compareSetups('l7', `p99 at ${rate.toLocaleString('en')}/s, ${title}`, 'ms', slow, ({ us }) => us.p99 / 1_000),
      compareSetups('l7', `processor time of 1,000 requests at ${rate.toLocaleString('en')}/s, ${title}`, 'ms', slow, ({ requests, cpu }) => (cpu * 1e6) / requests),
    )
  }
  const notes = [`Requests were made by ${await version()}, through one Envoy at each end for all.`]
  rows.push(...await grow(bench, world, [first, ...more], notes))
  for (const [name, count] of failures) if (count > 0) notes.push(`${count} requests through ${name} failed.`)
  return { rows, notes }
}

async function grow(bench: Bench, world: RequestWorld, counts: readonly number[], notes: string[]): Promise<Row[]> {
  const rows: Row[] = []
  for (const [i, count] of counts.entries()) {
    bench.progress(`requests with ${count.toLocaleString('en')} routes`)
    try {
      if (i > 0) await world.setRoutes(count)
    } catch (error) {
      notes.push(`${count.toLocaleString('en')} routes were not measured: ${describeError(error)}`)
      break
    }
    const measure = (name: ProxyName) => load(world, name, 'http1', count, bench.requests.seconds, undefined)
    // Rivals were started anew, and what a fresh process does not know yet it learns here.
    for (const name of proxyNames) await measure(name)
    const rounds = await inRounds(bench.requests.rounds, proxyNames.map((name) => [name, () => measure(name)] as const), () => {})
    const title = `${count.toLocaleString('en')} routes`
    rows.push(
      compareSetups('l7', `requests, HTTP/1.1, ${title}`, '1/s', rounds, ({ perSecond }) => perSecond),
      compareSetups('l7', `requests per second of processor time, HTTP/1.1, ${title}`, '1/s', rounds, ({ requests, cpu }) => requests / cpu),
      compareSetups('l7', `memory, ${title}`, 'MiB', [new Map(proxyNames.map((name) => [name, residentBytes(world.pid(name))]))], (bytes) => bytes / 2 ** 20),
    )
  }
  return rows
}

const failures = new Map<ProxyName, number>()

type Measured = Load & { readonly cpu: number }

/** Of the last route: what is tried first is found first. */
async function load(world: RequestWorld, name: ProxyName, protocol: ProtocolName, routes: number, seconds: number, perSecond: number | undefined): Promise<Measured> {
  const pid = world.pid(name)
  const before = cpuSeconds(pid)
  const result = await h2load({
    protocol, port: world.port(name, protocol), path: `/route-${routes - 1}`, seconds, messageFile: world.messageFile, logFile: world.logFile, wrap: world.wrap,
    ...(perSecond !== undefined && { rate: perSecond }),
  })
  if (result.failures > 0 && name === 'mesh') throw new MeshError('COMMAND_FAILED', `${result.failures} requests through the waypoint failed`)
  failures.set(name, (failures.get(name) ?? 0) + result.failures)
  return { ...result, cpu: cpuSeconds(pid) - before }
}

async function findPrograms(mayFetch: boolean): Promise<Programs | string> {
  const [nginx, envoy] = [await fetchNginx(mayFetch), await fetchEnvoy(mayFetch)]
  if (nginx.t === 'missing') return nginx.because
  if (envoy.t === 'missing') return envoy.because
  try {
    await version()
  } catch {
    return 'h2load is not to be had here: apt-get install nghttp2-client'
  }
  return { nginx: nginx.files, envoy: envoy.files }
}

async function version(): Promise<string> {
  const { code, stdout } = await runCommand(['h2load', '--version'])
  if (code !== 0) throw new MeshError('COMMAND_FAILED', 'h2load does not run')
  return stdout.trim().replace('nghttp2/', 'of nghttp2 ')
}
