// Crowds: thousands of connections held at once, and hundreds that behave at random. Afterwards the ztunnels hold nothing.
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { Netns } from '../../src/kernel/netns.ts'
import { connectInNetns } from '../../src/kernel/sockets.ts'
import { isHolding, startProbe } from '../helpers/apps.ts'
import type { ManyResult } from '../helpers/app-results.ts'
import { follow, plans } from '../helpers/chaos.ts'
import type { Plan } from '../helpers/chaos.ts'
import { TransferWorld, sourceBytes } from '../helpers/transfer.ts'

const crowd = 8_000
/** Of one process: one for each connection's application, and the tunnel connections that all share. */
const mostFiles = crowd + crowd / 20

let transfer: TransferWorld
let filesBefore: readonly number[]

beforeAll(async () => {
  transfer = await TransferWorld.start()
})
afterAll(() => transfer?.[Symbol.asyncDispose]())
beforeEach(async () => {
  filesBefore = await transfer.openFiles()
})
afterEach(() => transfer.released(filesBefore, 30_000, crowd / 20))

test('8,000 connections at once are echoed, held, and echoed again', async () => {
  const before = await transfer.world.counts('server')
  const args = [...transfer.address('server', 'echo'), crowd, '--echo', '--hold', 2, '--timeout', 60_000]
  const holding = await startProbe('many', args, transfer.world.inside('client'))
  expect(await holding.waitFor(isHolding, 60_000)).toMatchObject({ connected: crowd })
  expect(await transfer.open()).toEqual([crowd, crowd])
  for (const files of await transfer.openFiles()) {
    expect(files).toBeGreaterThan(crowd)
    expect(files).toBeLessThan(mostFiles)
  }
  await holding.ended
  expect(holding.lines.at(-1)).toMatchObject({ ok: true, connected: crowd, alive: crowd, echoed: 2 * crowd, failures: {} } satisfies Partial<ManyResult>)
  expect((await transfer.world.counts('server')).inbound).toBe(before.inbound + crowd)
})

test('300 clients at once that behave at random get the right bytes and leave nothing behind', async () => {
  const seed = Math.trunc(Math.random() * 2 ** 31)
  const netns = await Netns.open(transfer.world.netns('client'))
  try {
    const complaint = async (plan: Plan): Promise<string | undefined> => {
      const [host, port] = transfer.address(plan.target, plan.manner)
      try {
        return await follow(plan, await connectInNetns(netns, { host, port }), sourceBytes)
      } catch (error) {
        // A reset may come before the connection is looked at; where nobody resets at once, it is a complaint.
        return plan.manner === 'reset-accept' ? undefined : String(error)
      }
    }
    const run = async (plan: Plan): Promise<string[]> => {
      const wrong = await complaint(plan)
      return wrong === undefined ? [] : [`seed ${seed}: ${JSON.stringify(plan)}: ${wrong}`]
    }
    const complaints = await Promise.all(fc.sample(plans, { numRuns: 300, seed }).map(run))
    expect(complaints.flat()).toEqual([])
  } finally {
    netns.close()
  }
})
