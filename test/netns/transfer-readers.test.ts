// Readers that are slow or do not read at all: the writer is held back, the ztunnels between keep little, others go on,
// and the end of either side is still seen.
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { buildApps, runProbe } from '../helpers/apps.ts'
import type { FloodResult } from '../helpers/app-results.ts'
import { runLines } from '../helpers/line-process.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { MiB, TransferWorld } from '../helpers/transfer.ts'
import type { Manner, Target } from '../helpers/transfer.ts'

/** What the kernel's buffers of three hops take from a writer in these namespaces (see beforeAll), and some to spare. */
const mostAccepted = 8 * MiB
/** What a ztunnel keeps of one connection: a chunk read and a chunk waiting, each way. */
const mostKept = 256 * 1024
/** Growth that has nothing to do with how many readers stall: compiled code, and what V8 may leave uncollected (carryingFlags). */
const mostGarbage = (96 + 128) * MiB

let transfer: TransferWorld
let filesBefore: readonly number[]

beforeAll(async () => {
  // A lost reset is found out by asking; a kernel that is short of TCP memory does lose them.
  transfer = await TransferWorld.start({ SIDESTEP_KEEP_ALIVE_SECONDS: '2' })
  // 200 times the kernel's own choice is more memory than it gives to TCP, and then it is the kernel that slows others.
  for (const pod of ['client', 'server']) {
    await runLines(['sh', '-ec', 'sysctl -qw net.ipv4.tcp_rmem="4096 131072 262144" net.ipv4.tcp_wmem="4096 16384 131072"; echo {}'], transfer.world.inside(pod))
  }
})
afterAll(() => transfer?.[Symbol.asyncDispose]())
beforeEach(async () => {
  filesBefore = await transfer.openFiles()
})
afterEach(() => transfer.released(filesBefore))

const inside = (timeoutMs: number): ReturnType<typeof transfer.world.inside> => transfer.world.inside('client', { timeoutMs })

/** `count` writers at once, for `seconds`; what the kernel took from each. */
async function flood(target: Target, manner: Manner, count: number, seconds: number): Promise<number[]> {
  const { probe } = await buildApps()
  const one = [probe, 'flood', ...transfer.address(target, manner), '--seconds', seconds, '--rst'].join(' ')
  const { lines } = await runLines(['sh', '-c', `for i in $(seq ${count}); do ${one} & done; wait`], inside(40_000))
  expect(lines).toHaveLength(count)
  return (lines as FloodResult[]).map(({ ok, accepted }) => (ok ? accepted : Number.NaN))
}

/** The most that each ztunnel's memory grew while `act` ran. */
async function growth(act: () => Promise<unknown>): Promise<number[]> {
  const before = await transfer.memory()
  let most = before
  const over = new AbortController()
  const watching = (async () => {
    while (!over.signal.aborted) {
      const now = await transfer.memory()
      most = most.map((bytes, i) => Math.max(bytes, now[i] ?? 0))
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  })()
  try {
    await act()
  } finally {
    over.abort()
    await watching
  }
  return most.map((bytes, i) => bytes - (before[i] ?? 0))
}

test.each(['slow', 'stall'] as const)('one %s reader holds its writer back, and nobody else', async (manner) => {
  const [grownA, grownB] = await growth(async () => {
    const [flooded, bulk] = await Promise.all([
      flood('server', manner, 1, 3),
      runProbe('bulk', [...transfer.address('server', 'bulk'), 'both', 64 * MiB], inside(30_000)),
    ])
    expect(bulk).toMatchObject({ ok: true, sent: 64 * MiB, received: 64 * MiB })
    expect(flooded[0]).toBeLessThan(mostAccepted)
    expect(flooded[0]).toBeGreaterThan(0)
  })
  expect(grownA).toBeLessThan(mostGarbage)
  expect(grownB).toBeLessThan(mostGarbage)
})

test('200 stalled readers at once cost little memory, and a transfer beside them completes', async () => {
  const count = 200
  const [grownA, grownB] = await growth(async () => {
    const floods = flood('server', 'stall', count, 8)
    await eventually('all are open', async () => (await transfer.open()).every((open) => open >= count))
    const bulk = await runProbe('bulk', [...transfer.address('server', 'bulk'), 'both', 32 * MiB], inside(30_000))
    expect(bulk).toMatchObject({ ok: true, sent: 32 * MiB, received: 32 * MiB })
    const accepted = await floods
    for (const bytes of accepted) expect(bytes).toBeLessThan(mostAccepted)
  })
  expect(grownA).toBeLessThan(mostGarbage + count * mostKept)
  expect(grownB).toBeLessThan(mostGarbage + count * mostKept)
})
