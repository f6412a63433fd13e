// Readers that do not read, many of them on one connection: what they cost, and that a neighbour does not notice.
import { afterEach, expect, test } from 'vitest'
import type { TunnelStream } from './tunnel-stream.ts'
import { readAll, startBench, until } from './testing.ts'
import type { Bench } from './testing.ts'
import { unread } from './unread.ts'

const MiB = 1_048_576
let bench: Bench | undefined
afterEach(() => bench?.close())

/** Port 81 echoes; what comes to any other is not read. */
async function start(): Promise<{ bench: Bench; stalled: TunnelStream[] }> {
  const stalled: TunnelStream[] = []
  bench = await startBench({
    handler: async ({ authority }) => ({
      t: 'accept',
      carry: (stream) => {
        stream.on('error', () => {})
        if (authority.t === 'address' && authority.address.port === 81) stream.pipe(stream)
        else stalled.push(stream)
      },
    }),
  }, { limits: { spreadAtStreams: 1_000, maxStreams: 200, maxConnectionsPerKey: 1 } })
  return { bench, stalled }
}

function fill(stream: TunnelStream, chunk: Buffer): void {
  stream.on('error', () => {})
  const more = (): void => {
    while (!stream.destroyed && stream.write(chunk));
  }
  stream.on('drain', more)
  more()
}

/** Until it has not changed for a while. */
async function settled(read: () => number): Promise<number> {
  let [last, same] = [-1, 0]
  await until(() => {
    const now = read()
    same = now === last ? same + 1 : 0
    last = now
    return same > 60
  }, 15_000)
  return last
}

test('100 that do not read keep little, and others on their connection are served; then every byte is there', async () => {
  const { bench: { pool, request }, stalled } = await start()
  const chunk = Buffer.alloc(65_536)
  const tunnels = await Promise.all(Array.from({ length: 100 }, () => pool.openTunnel(request())))
  for (const { stream } of tunnels) fill(stream, chunk)
  const kept = await settled(() => unread.bytes)
  // Without a budget it would be 400 MiB. What was on its way when the windows shrank comes on top.
  expect(unread.isTight).toBe(true)
  expect(kept).toBeGreaterThan(60 * MiB)
  expect(kept).toBeLessThan(200 * MiB)

  const neighbour = await pool.openTunnel(request({ authority: { t: 'address', address: { ip: '10.0.0.2', port: 81 } } }))
  neighbour.stream.end(Buffer.alloc(4 * MiB, 'n'))
  expect((await readAll(neighbour.stream)).equals(Buffer.alloc(4 * MiB, 'n'))).toBe(true)
  expect(pool.connections()).toHaveLength(1)

  // They begin to read: windows are as before, and nothing was lost.
  for (const { stream } of tunnels) stream.removeAllListeners('drain')
  const arriving = stalled.map(async (stream) => (await readAll(stream)).length)
  for (const { stream } of tunnels) stream.end()
  const [sent, arrived] = [tunnels.map(({ stream }) => stream.bytesWritten), await Promise.all(arriving)]
  expect(arrived.toSorted()).toEqual(sent.toSorted())
  await until(() => !unread.isTight)
  expect(unread.bytes).toBe(0)
})

test('a few streams have their whole windows', async () => {
  const { bench: { pool, request } } = await start()
  const { stream } = await pool.openTunnel(request())
  fill(stream, Buffer.alloc(65_536))
  expect(await settled(() => unread.bytes)).toBeGreaterThan(3.9 * MiB)
  expect(unread.isTight).toBe(false)
})
