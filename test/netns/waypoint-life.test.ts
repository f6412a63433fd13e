// A waypoint's life under load: configuration that changes, replicas that roll and are killed, upstreams that hang, readers that are
// slow, and crowds that do nothing: no request that was safe to send is lost, nobody else is disturbed, memory is bounded.
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { eventually } from '../helpers/meshed-world.ts'
import { python } from '../helpers/foreign.ts'
import { httpRoute, pod, to, waypoint, WaypointWorld } from '../helpers/waypoint-world.ts'

const sockets = fileURLToPath(new URL('../apps/l7-sockets.ts', import.meta.url))
const suite = fileURLToPath(new URL('../foreign/websocket_suite.py', import.meta.url))

let world: WaypointWorld
beforeAll(async () => {
  const server = pod('sockets', 'node-b', { command: [await python(), suite, 'serve', '0.0.0.0', '8765'], readinessProbe: { tcpSocket: { port: 8765 }, periodSeconds: 1 } })
  const service = { apiVersion: 'v1', kind: 'Service', metadata: { name: 'sockets', namespace: 'shop' }, spec: { selector: { app: 'sockets' }, ports: [{ name: 'http', port: 8765 }] } }
  world = await WaypointWorld.start([server, service], waypoint('waypoint', { 'sidestep.dev/replicas': '2' }))
}, 180_000)
afterAll(() => world?.[Symbol.asyncDispose]())

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const everything = [{ path: { type: 'PathPrefix', value: '/' } }]

const isEvent = (event: string) => (line: unknown): line is { readonly event: string } => typeof line === 'object' && line !== null && 'event' in line && line.event === event

interface Replica {
  readonly name: string
  /** Of the proxy itself. */
  readonly pid: number
}

/** Waypoint pods that are ready, with their processes. */
function replicas(): Replica[] {
  return world.mesh.status().pods.filter(({ name, ready }) => name.startsWith('waypoint-') && ready).map(({ name }) => ({ name, pid: pidOf(name) }))
}

/** Whatever shares the pod's network namespace and is the proxy. */
function pidOf(name: string): number {
  const { ino } = statSync(world.mesh.podNetns('shop', name))
  const found = readdirSync('/proc').filter((entry) => /^\d+$/.test(entry)).find((pid) => {
    try {
      return readlinkSync(`/proc/${pid}/ns/net`) === `net:[${ino}]` && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('bin/waypoint.ts')
    } catch {
      return false // it ended meanwhile
    }
  })
  if (found === undefined) throw new Error(`${name} does not run`)
  return Number(found)
}

const residentMiB = (pid: number): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1024

describe('while requests run', () => {
  it('routes change a hundred times, and no request fails', async () => {
    const { asked, outcomes, bad } = await world.load('client', 'http://web/', async () => {
      for (let turn = 0; turn < 100; turn++) {
        const marked = [{ type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'x-turn', value: String(turn) }] } }]
        world.apply(httpRoute('turning', [{ matches: everything, backendRefs: [to('web-v1', { weight: turn }), to('web-v2', { weight: 100 - turn })], filters: marked }]))
        await sleep(30)
      }
      // In force within a second.
      await eventually('the last change', async () => (await world.curl('client', 'http://web/')).headers.get('x-turn') === '99', 1_500)
    })
    world.mesh.unapply('HTTPRoute shop/turning')
    expect([outcomes, bad]).toEqual([{ 200: asked }, []])
    expect(asked).toBeGreaterThan(50)
  })

  it('all replicas are replaced, and no request fails', async () => {
    const before = new Set(replicas().map(({ name }) => name))
    expect(before.size).toBe(2)
    const { asked, outcomes, bad } = await world.load('client', 'http://web/', async () => {
      world.apply(waypoint('waypoint', { 'sidestep.dev/replicas': '2', 'sidestep.dev/settings': 'SIDESTEP_LOG_LEVEL=warn' }))
      await eventually('two other replicas', async () => {
        const now = replicas()
        return now.length === 2 && now.every(({ name }) => !before.has(name))
      }, 90_000)
      await sleep(2_000)
    })
    expect([outcomes, bad]).toEqual([{ 200: asked }, []])
  }, 120_000)

  it('one replica is killed with -9, and requests that were safe to send again are answered', async () => {
    const [victim] = replicas()
    const { asked, outcomes, bad } = await world.load('client', 'http://web/', async () => {
      await sleep(500)
      process.kill(victim?.pid ?? 0, 'SIGKILL')
      await sleep(3_000)
    })
    expect([outcomes, bad]).toEqual([{ 200: asked }, []])
    await eventually('two replicas again', async () => replicas().length === 2, 60_000)
  }, 90_000)

  it('one version of the backend is removed and comes back, and no request fails', async () => {
    const { asked, outcomes, bad } = await world.load('client', 'http://web/', async () => {
      world.mesh.unapply('Pod shop/web-v2')
      await sleep(2_000)
    })
    expect([outcomes, bad]).toEqual([{ 200: asked }, []])
  })
})

describe('bounded', () => {
  it('a crowd that waits for a stuck backend holds little, and others are served', async () => {
    const before = replicas().map(({ pid }) => residentMiB(pid))
    const stuck = world.start('other', ['sh', '-c', 'for i in $(seq 200); do curl -s -o /dev/null --max-time 10 http://web-v1/slow/9000 & done; cat'])
    await sleep(3_000)
    const { status } = await world.curl('client', 'http://web-v1/')
    expect(status).toBe(200)
    const grown = replicas().map(({ pid }, i) => residentMiB(pid) - (before[i] ?? 0))
    expect(Math.max(...grown)).toBeLessThan(100)
    await stuck.stop()
  }, 60_000)

  it('a 10 GiB upload to a backend that reads it passes without being kept', async () => {
    const bytes = 10 * 2 ** 30
    const before = replicas().map(({ pid }) => residentMiB(pid))
    const upload = world.exec('client', ['sh', '-c', `head -c ${bytes} /dev/zero | curl -sS --max-time 230 -T - -H expect: http://web-v1/upload`], undefined, 240_000)
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, ...replicas().map(({ pid }, i) => residentMiB(pid) - (before[i] ?? 0)))
    }, 200)
    const { stdout } = await upload
    clearInterval(watch)
    expect((JSON.parse(stdout) as { bodyBytes: number }).bodyBytes).toBe(bytes)
    expect(most).toBeLessThan(300)
  }, 250_000)

  it('8,000 WebSockets that say nothing stay open, and others are served', async () => {
    const before = replicas().map(({ pid }) => residentMiB(pid))
    const crowd = world.start('other', [process.execPath, sockets, 'sockets', '8765', '8000'])
    expect(await crowd.waitFor(isEvent('open'), 120_000)).toMatchObject({ open: 8_000 })
    const begun = performance.now()
    expect((await world.curl('client', 'http://web-v1/')).status).toBe(200)
    expect(performance.now() - begun).toBeLessThan(5_000)
    const grown = replicas().map(({ pid }, i) => residentMiB(pid) - (before[i] ?? 0))
    // Some 50 KiB each, over both replicas.
    expect(grown.reduce((sum, each) => sum + each, 0)).toBeLessThan(600)
    await sleep(3_000)
    crowd.say('well?')
    expect(await crowd.waitFor(isEvent('still'))).toMatchObject({ open: 8_000, echoes: true })
    await crowd.stop()
  }, 180_000)

  it('a reader that does not read holds its own answer and no other', async () => {
    const before = replicas().map(({ pid }) => residentMiB(pid))
    // The backend answers with what it was asked: a long head makes a long answer; here the stream never ends and nobody reads it.
    const slow = world.start('other', ['sh', '-c', 'for i in $(seq 20); do (curl -sN --max-time 10 http://web-v1/stream/100000 | sleep 10) & done; cat'])
    await sleep(3_000)
    const begun = performance.now()
    expect((await world.curl('client', 'http://web-v1/')).status).toBe(200)
    expect(performance.now() - begun).toBeLessThan(5_000)
    expect(Math.max(...replicas().map(({ pid }, i) => residentMiB(pid) - (before[i] ?? 0)))).toBeLessThan(100)
    await slow.stop()
  }, 60_000)
})
