// Against a real collector: an HTTP server that decodes what arrives (OTLP over HTTP, opentelemetry-proto's JSON encoding).
import { createServer } from 'node:http'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { z } from 'zod'
import { silentLogger } from '../../core/log.ts'
import { parseTraceParent } from '../../hbone/traceparent.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { LiveRecord } from '../record.ts'
import { WaypointMetrics } from './metrics.ts'
import { openTelemetry } from './telemetry.ts'
import type { Telemetry } from './telemetry.ts'
import { db, HandClock, service, testContext, testRequest } from './testing.ts'

const attribute = z.object({ key: z.string(), value: z.object({ stringValue: z.string().optional(), intValue: z.union([z.number(), z.string()]).optional(), boolValue: z.boolean().optional() }) })
const attributes = z.array(attribute).transform((list) => Object.fromEntries(list.map(({ key, value }) => [key, value.stringValue ?? value.boolValue ?? Number(value.intValue)])))
const spanSchema = z.object({
  traceId: z.string(), spanId: z.string(), parentSpanId: z.string().optional(), name: z.string(), kind: z.int(), attributes,
  events: z.array(z.object({ name: z.string(), attributes })), links: z.array(z.object({ traceId: z.string(), spanId: z.string() })),
  status: z.object({ code: z.int(), message: z.string().optional() }),
})
const requestSchema = z.object({ resourceSpans: z.array(z.object({ resource: z.object({ attributes }), scopeSpans: z.array(z.object({ spans: z.array(spanSchema) })) })) })
type Span = z.infer<typeof spanSchema>

let collector: Server
let received: Span[]
let resources: object[]
let telemetry: Telemetry
let logged: string[]

beforeEach(async () => {
  received = []
  resources = []
  logged = []
  collector = createServer((request, response) => {
    let text = ''
    request.setEncoding('utf8').on('data', (chunk: string) => (text += chunk)).on('end', () => {
      for (const { resource, scopeSpans } of requestSchema.parse(JSON.parse(text)).resourceSpans) {
        resources.push(resource.attributes)
        received.push(...scopeSpans.flatMap(({ spans }) => spans))
      }
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
    })
  })
  await new Promise<void>((resolve) => void collector.listen(0, '127.0.0.1', resolve))
})
afterEach(async () => {
  await telemetry.close()
  collector.close()
  collector.closeAllConnections()
})

async function start(ratio: number, endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`): Promise<void> {
  telemetry = await openTelemetry({
    metrics: new WaypointMetrics(), accessLog: { format: '%TRACE_ID%', filter: 'all', sample: 1 }, writeLine: (lines) => logged.push(...lines.trimEnd().split('\n')), version: '1', clock: new HandClock(),
    logger: silentLogger, spans: { endpoint, ratio, service: 'waypoint', resource: { 'k8s.namespace.name': 'shop' }, delayMs: 10 },
  })
}

/** Server's and client's span, in this order. */
async function spansOf(count: number): Promise<Span[]> {
  await telemetry.close()
  expect(received).toHaveLength(count)
  return received.toSorted((one, other) => one.kind - other.kind)
}

const traceId = '0af7651916cd43dd8448eb211c80319c'
const spanId = 'b7ad6b7169203331'
const tunnel = { traceId: 'b'.repeat(32), parentId: 'c'.repeat(16), flags: 1 }

function forward(record: LiveRecord, headers: HeaderMap = new HeaderMap()): HeaderMap {
  record.routed({ origin: 'HTTPRoute shop/db', name: 'rule 0' })
  record.backend(service)
  for (const [name, value] of record.traceHeaders()) {
    if (value === '') headers.delete(name)
    else headers.set(name, value)
  }
  record.attempt({ service, workload: db, address: '10.0.0.2:80' })
  return headers
}
const finish = (record: LiveRecord, status = 200): void => record.finish({ status, requestBytes: 1, responseBytes: 2, isCut: false })

describe('a request with a trace', () => {
  test('has a server and a client span in it, of which the backend continues the client\'s', async () => {
    await start(0)
    const fields = [['traceparent', `00-${traceId}-${spanId}-01`], ['tracestate', 'a=1'], ['user-agent', 'curl/8']] as const
    const record = telemetry.records.begin(testRequest({ path: '/items', query: 'token=secret', fields, connection: testContext({ traceParent: tunnel }) }))
    const sent = forward(record, HeaderMap.of(fields))
    record.attempt({ service, workload: db, address: '10.0.0.3:80' })
    finish(record)
    const [server, client] = await spansOf(2)
    expect(server).toMatchObject({
      traceId, parentSpanId: spanId, name: 'GET HTTPRoute shop/db rule 0', kind: 2, links: [{ traceId: tunnel.traceId, spanId: tunnel.parentId }], status: { code: 0 },
      attributes: {
        'http.request.method': 'GET', 'http.response.status_code': 200, 'http.route': 'HTTPRoute shop/db rule 0', 'url.path': '/items', 'url.scheme': 'http', 'server.address': 'db.shop',
        'client.address': '10.0.0.1', 'network.protocol.version': '1.1', 'user_agent.original': 'curl/8', response_flags: '-', 'istio.downstream.workload': 'web',
        'istio.upstream.workload': 'db', 'istio.upstream.canonical_revision': 'v2', 'istio.upstream.service': 'db.shop.svc.cluster.local', 'istio.downstream.principal': 'spiffe://cluster.local/ns/shop/sa/web',
      },
    })
    expect(client).toMatchObject({
      traceId, parentSpanId: server?.spanId, kind: 3, attributes: { 'network.peer.address': '10.0.0.3:80', 'http.request.resend_count': 1 },
      events: [{ name: 'retry', attributes: { 'server.address': '10.0.0.3:80' } }],
    })
    expect(JSON.stringify(received)).not.toContain('secret')
    expect(sent.get('traceparent')).toBe(`00-${traceId}-${client?.spanId}-01`)
    expect(sent.get('tracestate')).toBe('a=1')
    expect(resources[0]).toMatchObject({ 'service.name': 'waypoint', 'service.version': '1', 'k8s.namespace.name': 'shop' })
    expect(logged).toEqual([traceId])
  })

  test('is not recorded where its maker does not want it, and goes on as it is', async () => {
    await start(1)
    for (const fields of [[['traceparent', `00-${traceId}-${spanId}-00`]], [['b3', `${traceId}-${spanId}-0`]]] as const) {
      const record = telemetry.records.begin(testRequest({ fields }))
      const sent = forward(record, HeaderMap.of(fields))
      finish(record)
      expect([...sent.entries()]).toEqual(fields)
    }
    await spansOf(0)
    expect(logged).toEqual([traceId, traceId])
  })

  test('of B3 is answered in B3 and W3C', async () => {
    await start(0)
    const fields = [['x-b3-traceid', traceId], ['x-b3-spanid', spanId], ['x-b3-sampled', '1']] as const
    const record = telemetry.records.begin(testRequest({ fields }))
    const sent = forward(record, HeaderMap.of(fields))
    finish(record)
    const [server, client] = await spansOf(2)
    expect([server?.traceId, server?.parentSpanId]).toEqual([traceId, spanId])
    expect([sent.get('x-b3-traceid'), sent.get('x-b3-spanid'), parseTraceParent(sent.get('traceparent'))?.spanId]).toEqual([traceId, client?.spanId, client?.spanId])
  })
})

describe('a request without a trace', () => {
  test('continues that of its connection if it is the first there; later ones begin their own and link to it', async () => {
    await start(1)
    const connection = testContext({ traceParent: tunnel })
    for (let i = 0; i < 2; i++) {
      const record = telemetry.records.begin(testRequest({ connection }))
      record.because('denied', 'shop/deny')
      finish(record, 403)
    }
    const [first, second] = await spansOf(2)
    expect(first).toMatchObject({ traceId: tunnel.traceId, parentSpanId: tunnel.parentId, attributes: { 'error.type': 'denied', 'http.response.status_code': 403 }, status: { code: 0 } })
    expect(second?.traceId).not.toBe(tunnel.traceId)
    expect(second?.parentSpanId ?? '').toBe('')
    expect(second?.links).toEqual([{ traceId: tunnel.traceId, spanId: tunnel.parentId }])
  })

  test('is drawn by the ratio, and those behind learn the decision', async () => {
    await start(0)
    const record = telemetry.records.begin(testRequest())
    const sent = forward(record)
    finish(record)
    expect(parseTraceParent(sent.get('traceparent'))?.isSampled).toBe(false)
    await spansOf(0)
  })

  test('that fails is an error, with the reason in our words', async () => {
    await start(1)
    const record = telemetry.records.begin(testRequest({ isGrpc: true, path: '/shop.Cart/Add' }))
    forward(record)
    record.because('connectFailure', 'CONNECT_REFUSED')
    record.finish({ status: 200, grpcStatus: 14, requestBytes: 0, responseBytes: 0, isCut: false })
    for (const span of await spansOf(2)) {
      expect(span).toMatchObject({ status: { code: 2, message: 'CONNECT_REFUSED' }, attributes: { 'error.type': 'connectFailure', 'rpc.method': 'shop.Cart/Add', 'rpc.response.status_code': '14', response_flags: 'UF' } })
    }
  })
})

test('a connection that is carried has spans, and its tunnel their trace', async () => {
  await start(1)
  const record = telemetry.records.carry(testContext({ traceParent: tunnel }))
  const sent = forward(record)
  record.finish({ status: 0, requestBytes: 1, responseBytes: 2, isCut: false })
  const [server, client] = await spansOf(2)
  expect(server).toMatchObject({ name: 'tcp HTTPRoute shop/db rule 0', traceId: tunnel.traceId, status: { code: 0 } })
  expect(parseTraceParent(sent.get('traceparent'))).toMatchObject({ traceId: tunnel.traceId, spanId: client?.spanId })
})

test('without a collector, headers pass as they are and their trace is known to the log', async () => {
  await start(1, '')
  const fields = [['traceparent', `00-${traceId}-${spanId}-01`]] as const
  const record = telemetry.records.begin(testRequest({ fields }))
  expect(record.traceHeaders()).toEqual([])
  finish(record)
  await telemetry.close()
  expect(logged).toEqual([traceId])
})
