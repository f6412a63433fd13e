// Against a real collector: an HTTP server that decodes what arrives. OTLP over HTTP is JSON here (opentelemetry-proto, section
// "JSON Protobuf Encoding").
import { execFileSync } from 'node:child_process'
import { createServer } from 'node:http'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { z } from 'zod'
import { MeshError } from '../../core/errors.ts'
import { silentLogger } from '../../core/log.ts'
import { freshTraceParent } from '../../hbone/traceparent.ts'
import type { ConnectionFacts } from './connection-record.ts'
import { ZtunnelMetrics } from './metrics.ts'
import { noSpans, openSpans } from './spans.ts'
import type { SpanOptions, Spans } from './spans.ts'

const attribute = z.object({ key: z.string(), value: z.object({ stringValue: z.string().optional(), intValue: z.union([z.number(), z.string()]).optional(), boolValue: z.boolean().optional() }) })
const spanSchema = z.object({
  traceId: z.string(), spanId: z.string(), parentSpanId: z.string().optional(), name: z.string(), kind: z.int(), startTimeUnixNano: z.string(), endTimeUnixNano: z.string(),
  attributes: z.array(attribute), status: z.object({ code: z.int(), message: z.string().optional() }),
})
const requestSchema = z.object({
  resourceSpans: z.array(z.object({ resource: z.object({ attributes: z.array(attribute) }), scopeSpans: z.array(z.object({ spans: z.array(spanSchema) })) })),
})
type Received = z.infer<typeof spanSchema>

let collector: Server
let received: Received[]
let paths: string[]
let resources: Map<string, unknown>[]
let respond: () => number | undefined
let metrics: ZtunnelMetrics
let spans: Spans

const valuesOf = (attributes: readonly z.infer<typeof attribute>[]): Map<string, unknown> =>
  new Map(attributes.map(({ key, value }) => [key, value.stringValue ?? value.boolValue ?? Number(value.intValue)]))

beforeEach(async () => {
  received = []
  paths = []
  resources = []
  respond = () => 200
  collector = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk)).on('end', () => {
      paths.push(request.url ?? '')
      const status = respond()
      if (status === undefined) return
      if (status === 200) {
        for (const { resource, scopeSpans } of requestSchema.parse(JSON.parse(text)).resourceSpans) {
          resources.push(valuesOf(resource.attributes))
          received.push(...scopeSpans.flatMap((scope) => scope.spans))
        }
      }
      response.writeHead(status, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve))
  metrics = new ZtunnelMetrics()
})
afterEach(async () => {
  await spans.close()
  collector.closeAllConnections()
  collector.close()
})

const open = (parts: Partial<SpanOptions> = {}): Promise<Spans> => openSpans({
  endpoint: `http://127.0.0.1:${(collector.address() as AddressInfo).port}`, node: 'node-a', version: '0.1.0', metrics, logger: silentLogger, delayMs: 20, ...parts,
})

const facts: ConnectionFacts = {
  reporter: 'source', direction: 'outbound', isMutualTls: true,
  source: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' } }, destination: {},
  service: { namespace: 'shop', name: 'db', hostname: 'db.shop.svc.cluster.local' },
  sourceAddr: { ip: '10.0.0.1', port: 40_000 }, destinationAddr: { ip: '10.0.0.2', port: 5_432 }, hboneAddr: { ip: '10.0.0.2', port: 15_008 },
}
const count = async (name: string, labels = ''): Promise<number> => Number(new RegExp(`^${name}${labels} (\\S+)$`, 'm').exec(await metrics.registry.metrics())?.[1])

test('both sides of a connection are one trace', async () => {
  spans = await open()
  const outbound = spans.start('outbound')
  const inbound = spans.start('inbound', outbound.traceParent)
  inbound.end({ ...facts, direction: 'inbound', verdict: { because: 'allowPolicy', policy: 'shop/web' } })
  outbound.end(facts, { isReused: true })
  outbound.end(facts, { error: new Error('too late') })
  await expect.poll(() => received.length, { timeout: 10_000 }).toBe(2)
  const server = received.find(({ kind }) => kind === 2)
  const client = received.find(({ kind }) => kind === 3)
  expect(client).toMatchObject({ name: 'tcp connect', traceId: outbound.traceParent.traceId, spanId: outbound.traceParent.spanId, status: { code: 0 } })
  expect(server).toMatchObject({ name: 'tcp accept', traceId: outbound.traceParent.traceId, spanId: inbound.traceParent.spanId, parentSpanId: outbound.traceParent.spanId })
  expect(Object.fromEntries(valuesOf(client?.attributes ?? []))).toMatchObject({
    'destination.address': '10.0.0.2', 'destination.port': 5_432, 'sidestep.hbone.address': '10.0.0.2:15008', 'sidestep.destination.service': 'db.shop.svc.cluster.local',
    'sidestep.source.identity': 'spiffe://cluster.local/ns/shop/sa/web', 'sidestep.tunnel.reused': true, 'sidestep.mutual_tls': true,
  })
  expect(valuesOf(server?.attributes ?? []).get('sidestep.policy')).toBe('shop/web')
  expect(resources[0]?.get('service.name')).toBe('ztunnel')
  expect(paths).toContain('/v1/traces')
  expect(BigInt(client?.endTimeUnixNano ?? 0) >= BigInt(client?.startTimeUnixNano ?? 1)).toBe(true)
})

test('a failure has its reason', async () => {
  spans = await open({ endpoint: `http://127.0.0.1:${(collector.address() as AddressInfo).port}/own/path` })
  spans.start('inbound', freshTraceParent()).end(facts, { error: new MeshError('POLICY_DENIED', 'no\nway', { detail: { because: 'denyPolicy' } }) })
  await expect.poll(() => received.length, { timeout: 10_000 }).toBe(1)
  expect(received[0]?.status).toEqual({ code: 2, message: expect.stringContaining('no\\u000away') as string })
  expect(Object.fromEntries(valuesOf(received[0]?.attributes ?? []))).toMatchObject({ 'error.type': 'denyPolicy', 'sidestep.response_flags': 'DENY' })
  expect(paths).toEqual(['/own/path'])
})

test('a collector that answers nothing costs a bounded queue, and drops are counted', async () => {
  respond = () => undefined
  spans = await open({ maxQueue: 10, timeoutMs: 300 })
  for (let i = 0; i < 50; i++) spans.start('outbound').end(facts)
  expect(await count('sidestep_spans_dropped_total', '\\{because="queueFull"\\}')).toBe(40)
  expect(await count('sidestep_spans_waiting')).toBe(10)
  await expect.poll(() => count('sidestep_spans_dropped_total', '\\{because="notTaken"\\}'), { timeout: 10_000 }).toBe(10)
  // Room again, and a collector that is back gets what comes then.
  respond = () => 200
  spans.start('outbound').end(facts)
  await expect.poll(() => received.length, { timeout: 10_000 }).toBe(1)
  expect(await count('sidestep_spans_exported_total')).toBe(1)
})

test('a collector that refuses is no reason to wait', async () => {
  respond = () => 400
  const warnings: string[] = []
  spans = await open({ logger: { ...silentLogger, warn: (_fields: object | string, message?: string) => void warnings.push(message ?? '') } })
  for (let i = 0; i < 3; i++) {
    spans.start('outbound').end(facts)
    await expect.poll(() => count('sidestep_spans_dropped_total', '\\{because="notTaken"\\}'), { timeout: 10_000 }).toBe(i + 1)
  }
  expect(warnings).toEqual(['spans are not taken by the collector'])
})

test('without a collector nothing is recorded or loaded, and traces of others go on', async () => {
  spans = await open({ endpoint: '' })
  expect(spans).toBe(noSpans)
  const parent = freshTraceParent()
  const { traceParent } = spans.start('inbound', parent)
  expect(traceParent).toMatchObject({ traceId: parent.traceId, isSampled: false })
  expect(traceParent.spanId).not.toBe(parent.spanId)
  const script = `
    import { registerHooks } from 'node:module'
    const seen = []
    registerHooks({ load: (url, context, next) => (seen.push(url), next(url, context)) })
    const loaded = () => seen.some((url) => url.includes('@opentelemetry'))
    const { openSpans } = await import('${new URL('./spans.ts', import.meta.url).href}')
    await openSpans({ endpoint: '' })
    const before = loaded()
    await openSpans({ endpoint: 'not a URL' }).catch(() => {})
    console.log(JSON.stringify([before, loaded()]))`
  expect(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' }).trim()).toBe('[false,true]')
})
