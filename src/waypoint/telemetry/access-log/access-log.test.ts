import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MeshError } from '../../../core/errors.ts'
import { HeaderMap } from '../../../policy/l7/request-head.ts'
import type { Finished } from '../finished.ts'
import { sourceOf } from '../request-labels.ts'
import { db, service, testContext, testRequest } from '../testing.ts'
import type { RequestParts } from '../testing.ts'
import { compileFormat, openAccessLog } from './access-log.ts'
import { istioTextFormat } from './formats.ts'

function finished({ request: parts = {}, ...rest }: Partial<Omit<Finished, 'request'>> & { readonly request?: RequestParts | undefined } = {}): Finished {
  const context = rest.context ?? testContext()
  return {
    context, request: testRequest({ ...parts, connection: context }), source: sourceOf(context), destination: { service, workload: db },
    destinationIdentity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'db' }, startedAtMs: Date.UTC(2026, 10, 21, 9, 5, 3, 42), durationMs: 12.4,
    headMs: 10.2, status: 200, grpcStatus: undefined, answerHeaders: HeaderMap.of([['content-type', 'text/plain'], ['server', 'db "x"']]), requestBytes: 3,
    responseBytes: 4, flags: '-', reason: undefined, detail: undefined, isCut: false, attempts: 1, upstreamAddress: '10.0.0.2:80',
    rule: { origin: 'HTTPRoute shop/db', name: 'rule 0' }, traceId: 'a'.repeat(32), hits: [], ...rest,
  }
}

const line = (format: string, of: Finished = finished()): string => compileFormat(format)?.(of) ?? ''

describe('text', () => {
  test.each([
    ['%START_TIME%', '2026-11-21T09:05:03.042Z'], ['%START_TIME(%Y/%m/%d %H:%M:%S.%3f %z)%', '2026/11/21 09:05:03.042 +0000'], ['%START_TIME(%s)%', '1795251903'],
    ['%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%', 'GET /a?b=1 HTTP/1.1'], ['%REQ(X-None?User-Agent)%', 'curl/8'], ['%REQ(X-NONE)%', '-'], ['%REQ(USER-AGENT):3%', 'cur'],
    ['%RESP(Content-Type)%|%RESP(X)%', 'text/plain|-'], ['"%RESP(SERVER)%"', '"db \\"x\\""'], ['%RESP(SERVER)%', 'db\\u0020\\u0022x\\u0022'], ['%RESPONSE_CODE% %RESPONSE_FLAGS% %DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%', '200 - 12 10 2'],
    ['%BYTES_SENT% %BYTES_RECEIVED%', '4 3'], ['%UPSTREAM_HOST% %UPSTREAM_CLUSTER%', '10.0.0.2:80 outbound|80||db.shop.svc.cluster.local'], ['"%ROUTE_NAME%"', '"HTTPRoute shop/db rule 0"'],
    ['%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%', '10.0.0.1:40000 10.0.0.1 40000'],
    ['%DOWNSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_URI_SAN%', 'spiffe://cluster.local/ns/shop/sa/web spiffe://cluster.local/ns/shop/sa/db'],
    ['100%% %TRACE_ID%', `100% ${'a'.repeat(32)}`], ['%SIDESTEP(src.workload)% %SIDESTEP(dst.namespace)%', 'web-1 shop'], ['%GRPC_STATUS% %REQUESTED_SERVER_NAME%', '- -'],
  ])('%s', (format, expected) => {
    expect(line(format, finished({ request: { path: '/a', query: 'b=1', fields: [['user-agent', 'curl/8']] } }))).toBe(`${expected}\n`)
  })

  test('of errors, and of connections', () => {
    expect(line('%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %GRPC_STATUS% %GRPC_STATUS(NUMBER)%', finished({ flags: 'UF,URX', reason: 'connectFailure', detail: 'CONNECT_REFUSED', grpcStatus: 14 })))
      .toBe('UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded connectFailure{CONNECT_REFUSED} Unavailable 14\n')
    const connection: Finished = { ...finished({ status: 0, answerHeaders: undefined, reason: 'denied', rule: undefined }), request: undefined }
    expect(line('%REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %CONNECTION_TERMINATION_DETAILS% %ROUTE_NAME%', connection)).toBe('- - - denied -\n')
    expect(line('text', connection)).toMatch(/^\[2026[^\n]*\n$/)
  })

  test.each([
    ['', /empty/], ['%NOPE%', /none of .*RESPONSE_CODE/], ['50% of', /position 3/], ['%REQ%', /needs the name/], ['%REQ(a?b?c)%', /more than one alternative/], ['%REQ(a b)%', /no name of a header/],
    ['%REQ(:status)%', /no name of a header/], ['%DURATION(x)%', /nothing in parentheses/], ['%REQ(a):0%', /1 to 8192/], ['%REQ(a):99999%', /1 to 8192/], ['%START_TIME(%Q)%', /%Q/],
    ['%SIDESTEP(x)%', /none of reason/], ['"%REQ(a)%', /not closed/], ['a\nb', /line break/], ['%REQ(a', /position 1/], ['{"a":', /begins like JSON/], ['{"a": "%X%"}', /none of/],
    ['{"a": {"b": {"c": {"d": {"e": {}}}}}}', /deeper/],
  ])('a format that cannot be read says what and where: %j', (format, message) => {
    expect(() => compileFormat(format)).toThrow(expect.objectContaining({ code: 'BAD_CONFIG', message: expect.stringMatching(message) as string }) as Error)
  })

  test('whatever is given as a format, only MeshErrors come of it', () => {
    const piece = fc.oneof(fc.string(), fc.constantFrom('%', '%REQ(', ')%', ':', '"', '%START_TIME(%', '%DURATION%', '{', '\n', '%%', '%RESP(X?Y):7%'))
    fc.assert(fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      try {
        compileFormat(pieces.join(''))
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
      }
    }))
  })
})

describe('JSON', () => {
  test('of a shape that somebody chose', () => {
    const template = JSON.stringify({
      at: '%START_TIME%', code: '%RESPONSE_CODE%', what: '%REQ(:METHOD)% %REQ(:PATH)% in %DURATION% ms', gone: '%REQ(X-NONE)%', partly: 'a %REQ(X-NONE)%',
      constant: 'v "1"', n: 1, yes: true, nothing: null, deep: { flags: '%RESPONSE_FLAGS%', list: ['%BYTES_SENT%', '%REQ(X)%', 'x'] },
    })
    const text = line(template)
    expect(JSON.parse(text)).toEqual({
      at: '2026-11-21T09:05:03.042Z', code: 200, what: 'GET / in 12 ms', partly: 'a -', constant: 'v "1"', n: 1, yes: true, nothing: null,
      deep: { flags: '-', list: [4, null, 'x'] },
    })
    expect(text.endsWith('}\n')).toBe(true)
  })

  test('what is written once for a connection or a destination is not another one\'s', () => {
    const template = '{"from":"%DOWNSTREAM_REMOTE_ADDRESS%","who":"%SIDESTEP(src.workload)%","code":"%RESPONSE_CODE%","to":"%SIDESTEP(dst.workload)%","of":"%SIDESTEP(dst.service)%"}'
    const write = compileFormat(template)
    const contexts = [1, 2].map((port) => testContext({ caller: { ...testContext().caller, address: { ip: '10.0.0.1', port } } }))
    const destinations = [{ service, workload: db }, { service: { ...service, hostname: 'other' }, workload: db }, { service, workload: undefined }, { service: undefined, workload: undefined }]
    for (let i = 0; i < 40; i++) {
      const of = finished({ context: contexts[i % 2] ?? testContext(), destination: destinations[i % 4] ?? { service, workload: db }, status: 200 + i })
      expect(JSON.parse(write?.(of) ?? '')).toEqual({
        from: `10.0.0.1:${(i % 2) + 1}`, who: 'web-1', code: 200 + i, ...[
          { to: 'db-1', of: 'db.shop.svc.cluster.local' }, { to: 'db-1', of: 'other' }, { of: 'db.shop.svc.cluster.local' }, {},
        ][i % 4],
      })
    }
  })

  test('a field that is not known is left out, also the first', () => {
    expect(line('{"a": "%REQ(X)%", "b": "%RESPONSE_CODE%"}')).toBe('{"b":200}\n')
    expect(line('{"a": "%REQ(X)%"}')).toBe('{}\n')
  })
})

/** What clients and backends choose: any text, with what a forger would need. */
const hostile = fc.array(fc.oneof(
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom('"', '\\', '\n', '\r\n', '\u2028', '\u0085', '\u001b[2J', '","response_code":200,"x":"', '\\"', '" 200 - "', ' ', '%REQ(X)%', '\ud800', '\u202e', '-'),
), { maxLength: 10 }).map((parts) => parts.join(''))

const forged = fc.record({ method: hostile, path: hostile, query: hostile, authority: hostile, agent: hostile, detail: hostile, serverName: hostile, name: hostile, answer: hostile }).map((h) => {
  const context = testContext({ serverName: h.serverName })
  const base = testRequest({ method: h.method, path: h.path, query: h.query, fields: [['user-agent', h.agent], ['x-forwarded-for', h.agent], ['x-request-id', h.answer]] })
  return {
    ...finished({ context, reason: 'denied', detail: h.detail, answerHeaders: HeaderMap.of([['server', h.answer]]), destination: { service, workload: { ...db, name: h.name } } }),
    request: { ...base, head: { ...base.head, authority: h.authority } },
  }
})

// oxlint-disable-next-line no-control-regex
const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/

describe('whatever a client says', () => {
  test('a text line is one line, with as many fields as its format has', () => {
    // A field is a quoted string with its escapes, or has neither spaces nor quotes that are not escaped.
    const fields = (text: string): number => text.match(/"(?:[^"\\]|\\.)*"|(?:[^\s"\\]|\\.)+/g)?.length ?? 0
    const expected = fields(line(istioTextFormat))
    fc.assert(fc.property(forged, (of) => {
      const text = line(istioTextFormat, of)
      expect(text.endsWith('\n')).toBe(true)
      expect(text.slice(0, -1)).not.toMatch(control)
      expect(text.slice(0, -1).replace(/"(?:[^"\\]|\\.)*"/g, 'quoted')).not.toMatch(/(?<!\\)"/)
      expect(fields(text)).toBe(expected)
      // The third field is the status, whatever was asked for.
      expect(/^\[[^\]]*\] "(?:[^"\\]|\\.)*" (\d+) /.exec(text)?.[1]).toBe('200')
    }))
  })

  test('a JSON line is one object, whose fields are ours', () => {
    const plainKeys = new Set(Object.keys(JSON.parse(line('json', finished({ request: { fields: [['user-agent', 'a'], ['x-forwarded-for', 'a'], ['x-request-id', 'a']] }, reason: 'denied', detail: 'a', context: testContext({ serverName: 'a' }) }))) as object))
    fc.assert(fc.property(forged, (of) => {
      for (const format of ['json', '{"response_code":"%RESPONSE_CODE%","mixed":"%REQ(USER-AGENT)% \\"%REQ(:PATH)%\\""}']) {
        const text = line(format, of)
        expect(text.endsWith('\n')).toBe(true)
        expect(text.slice(0, -1)).not.toMatch(control)
        const value = JSON.parse(text) as Record<string, unknown>
        expect(value['response_code']).toBe(200)
        if (format === 'json') expect(Object.keys(value).filter((key) => !plainKeys.has(key))).toEqual([])
      }
    }))
  })

  test('a line has a bounded length', () => {
    const long = 'x"'.repeat(50_000)
    const of = finished({ request: { path: long, query: long, fields: [['user-agent', long], ['x-forwarded-for', long]] }, reason: 'denied', detail: long })
    for (const format of ['json', 'text']) expect(line(format, of).length).toBeLessThan(12_000)
  })
})

describe('which lines', () => {
  const ok = finished()
  const bad = [finished({ status: 404 }), finished({ flags: 'UC' }), finished({ isCut: true }), finished({ grpcStatus: 5 })]
  const written = (filter: 'all' | 'errors' | 'none', sample: number, format = '%RESPONSE_CODE%'): number => {
    let count = 0
    let chance = 0
    const log = openAccessLog({ format, filter, sample }, () => count++, () => (chance = (chance + 0.1) % 1))
    for (let i = 0; i < 20; i++) log(ok)
    for (const of of bad) log(of)
    return count
  }

  test('filter and sampling: errors always have one', () => {
    expect([written('all', 1), written('errors', 1), written('none', 1), written('all', 0), written('all', 1, 'off')]).toEqual([24, 4, 0, 4, 0])
    const some = written('all', 0.5)
    expect(some).toBeGreaterThan(8)
    expect(some).toBeLessThan(20)
  })
})
