// A mesh of 10,000 services with 50,000 endpoints over real gRPC. The times are told, not judged: test/bench judges.
import { afterAll, expect, test } from 'vitest'
import { WatchedClient, aPolicy, aService, aWorkload, makeCertificate, startControlPlane, until } from './testing.ts'

const cleanups: (() => void | Promise<void>)[] = []
afterAll(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

const address = (net: number, i: number): string => `${net}.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`

test('the whole mesh, then one change, then a reconnect', async () => {
  const certificate = makeCertificate()
  const told: Record<string, number> = {}
  let fromMs = performance.now()
  const lap = (what: string): void => {
    told[what] = Math.round(performance.now() - fromMs)
    fromMs = performance.now()
  }
  const services = Array.from({ length: 10_000 }, (_, i) => aService(`s${i}`, { addresses: [{ network: '', ip: address(11, i) }] }))
  const workloads = Array.from({ length: 50_000 }, (_, i) => {
    const key = `shop/s${i % 10_000}.shop.svc.cluster.local`
    return aWorkload(`w${i}`, { ips: [address(10, i)], services: new Map([[key, [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11' }]]]) })
  })
  const policies = Array.from({ length: 1_000 }, (_, i) => aPolicy(`p${i}`))
  lap('made')
  const bytes: number[] = []
  const plane = await startControlPlane(certificate, { onPush: (push) => bytes.push(push.bytes) })
  cleanups.push(() => plane.stop())
  plane.store.apply({ services, workloads, policies })
  lap('encoded and published')

  let longestMs = 0
  let tickMs = performance.now()
  const watch = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - tickMs)
    tickMs = performance.now()
  }, 1)
  cleanups.push(() => clearInterval(watch))
  const a = new WatchedClient(plane.port, certificate)
  cleanups.push(() => a.client.close())
  a.client.start()
  await until(() => a.client.isSynced, 'the first state', 60_000)
  lap('first state at the node')
  expect(a.known.size).toBe(61_000)
  const longestFirst = Math.round(longestMs)

  plane.store.apply({ workloads: [aWorkload('w7', { node: 'elsewhere' })] })
  await until(() => (a.known.get('c1//Pod/shop/w7') as { node: string }).node === 'elsewhere', 'one change', 60_000)
  lap('one change')

  plane.stop()
  const again = await startControlPlane(certificate, { store: plane.store, port: plane.port, onPush: (push) => bytes.push(push.bytes) })
  cleanups.push(() => again.stop())
  const { length } = a.deltas
  await until(() => a.deltas.length >= length + 2, 'a reconnect', 60_000)
  lap('reconnected without replay')
  expect(bytes.slice(-2).every((each) => each < 1000)).toBe(true)
  const heapMb = Math.round(process.memoryUsage().heapUsed / 1e6)
  console.log('10,000 services, 50,000 endpoints, 1,000 policies (ms):', told, { firstPushMb: (bytes[0] ?? 0) / 1e6, longestStallMs: longestFirst, heapMb })
}, 120_000)
