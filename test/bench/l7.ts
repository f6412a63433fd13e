// Nanoseconds per L7 decision: `node test/bench/l7.ts`, or with words that the lines wanted contain. Route matching for 10 to
// 10,000 routes of several shapes (and by trying each, for comparison), path normalisation, balancers, limits and
// authorization.
import type { AuthorizationL7 } from '../../src/model/authorization-l7.ts'
import { emptyL7Match } from '../../src/model/authorization-l7.ts'
import type { HttpRule, RequestMatch, RouteTable } from '../../src/model/route.ts'
import type { Balancer, Endpoint } from '../../src/policy/l7/balancer/balancer.ts'
import { LeastRequestBalancer } from '../../src/policy/l7/balancer/least-request.ts'
import { MaglevBalancer } from '../../src/policy/l7/balancer/maglev.ts'
import { PeakEwmaBalancer } from '../../src/policy/l7/balancer/peak-ewma.ts'
import { RandomBalancer } from '../../src/policy/l7/balancer/random.ts'
import { RingHashBalancer } from '../../src/policy/l7/balancer/ring-hash.ts'
import { RoundRobinBalancer } from '../../src/policy/l7/balancer/round-robin.ts'
import { L7Authorizer } from '../../src/policy/l7/authorization.ts'
import { normalisePath } from '../../src/policy/l7/path.ts'
import { LocalLimiter } from '../../src/policy/l7/rate-limit.ts'
import type { RequestHead } from '../../src/policy/l7/request-head.ts'
import { Routes } from '../../src/policy/l7/route-table.ts'
import { headOf } from '../../src/policy/l7/testing.ts'

const wanted = process.argv.slice(2)

function measure(label: string, atLeastMs: number, call: (i: number) => unknown): void {
  if (!wanted.every((word) => label.includes(word))) return
  let kept: unknown
  let i = 0
  const runFor = (ms: number): number => {
    const start = performance.now()
    let calls = 0
    for (let elapsed = 0; elapsed < ms; elapsed = performance.now() - start) {
      for (let n = 0; n < 16; n++) kept = call(i++)
      calls += 16
    }
    return ((performance.now() - start) * 1e6) / calls
  }
  runFor(atLeastMs / 2)
  const runs = [runFor(atLeastMs), runFor(atLeastMs), runFor(atLeastMs)].sort((a, b) => a - b)
  if (kept === Symbol.iterator) throw new Error('unreachable; keeps the loop alive')
  console.log(`${label.padEnd(56)} ${(runs[0] ?? 0).toFixed(0).padStart(9)} ns`)
}

type Shape = 'exact' | 'prefix' | 'regex' | 'header' | 'host' | 'mixed'
const match = (parts: Partial<RequestMatch>): RequestMatch => ({ headers: [], query: [], cookies: [], ...parts })
const shapes: Readonly<Record<Shape, (i: number) => RequestMatch>> = {
  exact: (i) => match({ path: { kind: 'exact', value: `/api/v1/service${i}/items` } }),
  prefix: (i) => match({ path: { kind: 'prefix', value: `/api/v1/service${i}` } }),
  regex: (i) => match({ path: { kind: 'regex', value: `/api/v1/service${i}/[a-z]+` } }),
  header: (i) => match({ headers: [{ name: 'x-tenant', match: { kind: 'exact', value: `tenant${i}` } }] }),
  host: (i) => match({ authority: { kind: 'exact', value: `s${i}.shop.test` } }),
  mixed: (i) => shapes[(['exact', 'prefix', 'prefix', 'regex', 'header'] as const)[i % 5] ?? 'exact'](i),
}

function routesOf(shape: Shape, count: number): Routes {
  const http = Array.from({ length: count }, (_, i): HttpRule => ({
    origin: 'HTTPRoute shop/bench', name: `r${i}`, matches: [shapes[shape](i)], action: { t: 'respond', status: 200 },
      mirrors: [], timeouts: {}, filters: [],
  }))
  const table: RouteTable = { key: 'bench', hostnames: [], http, tcp: [], hasDefault: false }
  return new Routes([table])
}

function requestsFor(shape: Shape, count: number): readonly RequestHead[] {
  return Array.from({ length: 256 }, (_, n) => {
    const i = Math.floor((n * count) / 256)
    return headOf(`/api/v1/service${i}/items`, {
      authority: shape === 'host' ? `s${i}.shop.test` : 'shop.test',
      headers: [['user-agent', 'bench'], ['accept', '*/*'], ['x-request-id', String(n)],
        ...(shape === 'header' || shape === 'mixed' ? [['x-tenant', `tenant${i}`] as const] : [])],
    })
  })
}

for (const count of [10, 100, 1_000, 10_000]) {
  for (const shape of ['exact', 'prefix', 'regex', 'header', 'host', 'mixed'] as const) {
    const routes = routesOf(shape, count)
    const requests = requestsFor(shape, count)
    const [first] = requests
    if (!first || routes.match(first).t !== 'rule') throw new Error(`the ${shape} requests do not match`)
    measure(`match ${shape}, ${count} routes`, 60, (i) => routes.match(requests[i & 255] ?? first))
    if (shape === 'prefix') measure(`match ${shape}, ${count} routes, by trying each`, 60,
      (i) => routes.matchByTrying(requests[i & 255] ?? first))
  }
  const started = performance.now()
  routesOf('mixed', count)
  const line = `compile mixed, ${count} routes`
  if (wanted.every((word) =>
    line.includes(word))) console.log(`${line.padEnd(56)} ${((performance.now() - started) * 1e6).toFixed(0).padStart(9)} ns`)
}

measure('path, canonical already', 60, () => normalisePath('/api/v1/service42/items'))
measure('path, with escapes and dots', 60, () => normalisePath('/api//v1/./service42;v=1/%69tems'))

const random = Math.random
for (const count of [10, 1_000]) {
  const endpoints = Array.from({ length: count },
    (_, i): Endpoint => ({ id: `10.0.${i >> 8}.${i & 255}:8080`, weight: 1 + (i % 3) }))
  const none = { slowStartMs: 0 }
  const ewma = new PeakEwmaBalancer(none)
  const balancers: Readonly<Record<string, Balancer>> = {
    'round robin': new RoundRobinBalancer(none), random: new RandomBalancer(none),
      'least request': new LeastRequestBalancer(none),
    'peak ewma': ewma, 'ring hash': new RingHashBalancer(65_536), maglev: new MaglevBalancer(65_537),
  }
  for (const [name, balancer] of Object.entries(balancers)) {
    balancer.update(endpoints)
    measure(`balance ${name}, ${count} endpoints`, 60,
      (i) => balancer.pick({ nowMs: i, random, hash: Math.imul(i, 0x9e3779b1) >>> 0 }))
    measure(`update ${name}, ${count} endpoints`, 60, () => balancer.update([...endpoints]))
  }
  measure(`balance peak ewma with begin and end, ${count} endpoints`, 60, (i) => {
    const picked = ewma.pick({ nowMs: i, random })
    if (!picked) return
    ewma.begin(picked.id)
    ewma.end(picked.id, 5 + (i & 7), { t: 'answered' }, i)
  })
}

const limiter = new LocalLimiter({ maxKeys: 10_000 })
const rule = { kind: 'rate', name: 'r', limit: 100, windowMs: 1000 } as const
const keys = Array.from({ length: 4096 }, (_, i) => `client ${i}`)
measure('limit, 4096 keys', 60, (i) => limiter.take([{ rule, key: keys[i & 4095] ?? '' }], i))

for (const count of [1, 10, 100, 1_000]) {
  const policies = Array.from({ length: count }, (_, i): AuthorizationL7 => ({
    name: `p${i}`, namespace: 'shop', action: i % 10 === 9 ? 'deny' : 'allow', isDryRun: false,
    rules: [[[{ ...emptyL7Match,
      l4: { ...emptyL7Match.l4, principals: [{ kind: 'exact', value: `cluster.local/ns/shop/sa/app${i}` }] } }],
      [{ ...emptyL7Match, methods: [{ kind: 'exact', value: 'GET' }], paths: [{ kind: 'prefix', value: `/api/v${i}/` }] }]]],
  }))
  const authorizer = new L7Authorizer(policies)
  const asked = Array.from({ length: 256 }, (_, n) => ({
    head: headOf(`/api/v${Math.floor((n * count) / 256)}/items`), remoteIp: '10.1.0.7',
    connection: {
      identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: `app${Math.floor((n * count) / 256)}` },
      sourceIp: '10.1.0.7', destination: { ip: '10.1.0.9', port: 8080 },
    },
  }))
  const [first] = asked
  if (first) measure(`authorize, ${count} policies`, 60, (i) => authorizer.evaluate(asked[i & 255] ?? first))
}
