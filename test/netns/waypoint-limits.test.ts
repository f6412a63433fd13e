// Limits that all replicas of a waypoint count together, in a real Redis beside the mesh: counted once, told to clients, and what
// happens while the store is away.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { underlayIps } from '../../src/local/addresses.ts'
import { runCommand } from '../../src/local/command.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { httpRoute, object, to, waypoint, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const port = 8_379
let world: WaypointWorld
let redis: ChildProcess | undefined

const inUnderlay = (...command: string[]): string[] => ['nsenter', `--net=${world.mesh.underlayNetns}`, '--', ...command]

/** The server's program comes with Debian's redis-tools under another name, and does what it is called. */
async function startRedis(): Promise<void> {
  const options = `--bind ${underlayIps.v4} --port ${port} --protected-mode no --save '' --appendonly no --dir /tmp`
  const [program = '', ...args] = inUnderlay('bash', '-c', `exec -a redis-server /usr/bin/redis-check-rdb ${options}`)
  redis = spawn(program, args, { stdio: 'ignore' })
  const ping = inUnderlay('redis-cli', '-h', underlayIps.v4, '-p', String(port), 'ping')
  await eventually('redis answers', async () => (await runCommand(ping)).stdout.trim() === 'PONG', 10_000)
}

async function stopRedis(): Promise<void> {
  if (redis?.exitCode !== null || !redis.kill('SIGKILL')) return
  await once(redis, 'exit')
}

beforeAll(async () => {
  const settings = `SIDESTEP_LIMIT_STORE=redis://${underlayIps.v4}:${port}\nSIDESTEP_LIMIT_STORE_TIMEOUT_MS=2000`
  world = await WaypointWorld.start([], waypoint('waypoint', { 'sidestep.dev/replicas': '2', 'sidestep.dev/settings': settings }))
  await startRedis()
}, 120_000)
afterAll(async () => {
  await stopRedis()
  await world?.[Symbol.asyncDispose]()
})

const limit = (name: string, requests: number, whenStoreUnavailable: string): Yaml => object('sidestep.dev/v1alpha1', 'RateLimitPolicy', name, {
  limits: [{ name, requests, per: '1h', by: [{ type: 'Identity' }] }], scope: 'Global', whenStoreUnavailable,
})
const route = (policy: string): Yaml => httpRoute('limited', [{
  matches: [{ path: { type: 'PathPrefix', value: '/limited' } }], backendRefs: [to('web')],
  filters: [
    { type: 'ExtensionRef', extensionRef: { group: 'sidestep.dev', kind: 'RateLimitPolicy', name: policy } },
    { type: 'ResponseHeaderModifier', responseHeaderModifier: { set: [{ name: 'x-limited-by', value: policy }] } },
  ],
}, { backendRefs: [to('web')] }])

/** Each of a connection of its own, so that both replicas are asked. */
const statuses = async (from: string, count: number): Promise<number[]> => {
  const list: number[] = []
  for (let i = 0; i < count; i++) list.push((await world.curl(from, 'http://web/limited')).status)
  return list
}
const headerOf = async (name: string): Promise<string | undefined> => (await world.curl('client', 'http://web/limited')).headers.get(name)

it('replicas count together, each caller apart, and say so', async () => {
  await world.during([limit('together', 6, 'Deny'), route('together')],
    async () => (await headerOf('ratelimit-policy'))?.includes('"together"') === true,
    async () => {
      // The store began after the replicas: each looks for it again in its own time. It took some of the client's own, not of others'.
      await expect.poll(async () => (await statuses('client', 12)).includes(503), { timeout: 20_000 }).toBe(false)
      const others = await Promise.all([statuses('other', 6), statuses('other', 6)])
      expect(others.flat().filter((status) => status === 200)).toHaveLength(6)
      expect(others.flat().filter((status) => status === 429)).toHaveLength(6)
      const refused = await world.curl('other', 'http://web/limited')
      expect(refused.headers.get('ratelimit-policy')).toBe('"together";q=6;w=3600')
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(500)
      expect((await world.curl('other', 'http://web/free')).status).toBe(200)
    })
}, 90_000)

it('does what was chosen while the store is away, and counts on when it is back', async () => {
  await world.during([limit('strict', 1_000, 'Deny'), route('strict')],
    async () => (await headerOf('ratelimit-policy'))?.includes('"strict"') === true,
    async () => {
      await stopRedis()
      await expect.poll(async () => (await statuses('client', 3)).join(' '), { timeout: 10_000 }).toBe('503 503 503')
      expect((await world.curl('client', 'http://web/free')).status).toBe(200)
      await startRedis()
      await expect.poll(async () => (await statuses('client', 4)).join(' '), { timeout: 15_000 }).toBe('200 200 200 200')
    })
  await stopRedis()
  await world.during([limit('open', 1, 'Allow'), route('open')],
    async () => await headerOf('x-limited-by') === 'open',
    async () => {
      expect(await statuses('client', 3)).toEqual([200, 200, 200])
      expect(await headerOf('ratelimit-policy')).toBeUndefined()
    })
}, 120_000)
