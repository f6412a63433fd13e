// What a ztunnel does when it may not or cannot carry a connection: it ends that one, counts it, keeps nothing of it, and
// leaves the others alone.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { isHolding, runProbe, startProbe } from '../helpers/apps.ts'
import type { ManyResult } from '../helpers/app-results.ts'
import { runLines } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { TransferWorld, portOf } from '../helpers/transfer.ts'

const limit = 50
/** What one pod may have of it. */
const most = 45
const connectTimeoutMs = 1_500

let transfer: TransferWorld
let filesBefore: readonly number[]

beforeAll(async () => {
  transfer = await TransferWorld.start({
    SIDESTEP_MAX_CONNECTIONS: String(limit),
    SIDESTEP_CONNECT_TIMEOUT_MS: String(connectTimeoutMs),
    SIDESTEP_KEEP_ALIVE_SECONDS: '1',
  })
})
afterAll(() => transfer?.[Symbol.asyncDispose]())
beforeEach(async () => {
  filesBefore = await transfer.openFiles()
})
afterEach(() => transfer.released(filesBefore))

/** While `act` runs, nothing that the plain pod sends to `ip` leaves it. */
async function withNoWayBack(ip: string, act: () => Promise<void>): Promise<void> {
  const route = (verb: string): Promise<unknown> =>
    runLines(['sh', '-ec', `ip route ${verb} blackhole ${ip}/32; echo {}`], transfer.world.inside('stranger'))
  await route('add')
  try {
    await act()
  } finally {
    await route('del')
  }
}

test('beyond the limit a connection is refused and counted; standing ones go on; it recovers', async () => {
  const before = await transfer.world.counts('client')
  const holding = await startProbe('many', [...transfer.address('outside', 'echo'), most, '--echo', '--hold', 2], transfer.world.inside('client'))
  await holding.waitFor(isHolding)
  expect(await transfer.open()).toEqual([most, 0])

  for (const manner of ['echo', 'banner'] as const) {
    expect(await transfer.connect('outside', manner, ['--read'])).toMatchObject({ ok: false, errno: 'ECONNRESET' })
  }
  expect((await transfer.world.counts('client')).refused).toBe(before.refused + 2)
  expect(await transfer.open()).toEqual([most, 0])

  await holding.ended
  expect(holding.lines.at(-1)).toMatchObject({ ok: true, alive: most, echoed: 2 * most } satisfies Partial<ManyResult>)
  await eventually('it recovers', async () => (await transfer.open()).every((open) => open === 0))
  expect(await transfer.connect('outside', 'echo', ['--send', 'again'])).toMatchObject({ ok: true, reply: 'again' })
})

test('a destination that does not answer is given up in time', async () => {
  await withNoWayBack(transfer.world.ip('client'), async () => {
    const before = await transfer.world.counts('client')
    const result = await runProbe('connect', [transfer.world.ip('stranger'), 7001, '--read', '--timeout', 20_000], transfer.world.inside('client'))
    expect(result).toMatchObject({ ok: false, errno: 'ECONNRESET' })
    expect(result.totalMs).toBeGreaterThan(connectTimeoutMs - 100)
    expect((await transfer.world.counts('client')).failed).toBe(before.failed + 1)
  })
})

test.each([['end of file', ['--send', 'x', '--timeout', '300']], ['a reset', ['--send', 'x', '--keep-open', '--rst', '--timeout', '300']]])(
  'clients that leave by %s while the ztunnel still dials leave nothing behind', async (_how, flags) => {
    const count = 20
    await withNoWayBack(transfer.world.ip('client'), async () => {
      const before = await transfer.world.counts('client')
      const dial = (): ReturnType<typeof runProbe<'connect'>> => runProbe('connect', [transfer.world.ip('stranger'), 7001, ...flags], transfer.world.inside('client'))
      for (const result of await Promise.all(Array.from({ length: count }, dial))) expect(result).toMatchObject({ ok: false, stage: 'read' })
      await eventually('all have been given up', async () => (await transfer.world.counts('client')).failed === before.failed + count)
    })
  },
)

test('a crowd that leaves as soon as it has come leaves nothing behind', async () => {
  await withNoWayBack(transfer.world.ip('client'), async () => {
    const before = await transfer.world.counts('client')
    const crowd = 200
    await runProbe('many', [transfer.world.ip('stranger'), 7001, crowd], transfer.world.inside('client'))
    await eventually('all have been refused or given up', async () => {
      const { refused, failed } = await transfer.world.counts('client')
      return refused + failed === before.refused + before.failed + crowd
    })
  })
})

test('a peer whose reset was lost is found out, and the server is told', async () => {
  const [ended] = await transfer.endsOf('server', 'hold', 1, async () => {
    const flags = ['--send', 'x', '--keep-open', '--rst', '--timeout', '500']
    const leaving = runProbe('connect', [transfer.world.ip('server'), portOf('hold'), ...flags], transfer.world.inside('stranger'))
    await eventually('it is carried', async () => (await transfer.open())[1] === 1)
    await withNoWayBack(transfer.world.ip('server'), async () => {
      await leaving
      expect((await transfer.open())[1]).toBe(1)
    })
  })
  expect(ended).toMatchObject({ end: 'ECONNRESET', bytes: 1 })
})
