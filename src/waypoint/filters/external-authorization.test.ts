// Authorizers by both of Envoy's contracts: a gRPC server of grpc-js and an HTTP server, with everything that they may answer.
import { Server, ServerCredentials } from '@grpc/grpc-js'
import type { sendUnaryData, ServerUnaryCall } from '@grpc/grpc-js'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { RequestListener } from 'node:http'
import fc from 'fast-check'
import { afterEach, describe, expect, it } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import { emptyL7Match } from '../../model/authorization-l7.ts'
import type { AuthorizationL7 } from '../../model/authorization-l7.ts'
import type { AuthorizationProvider } from '../../model/waypoint-config.ts'
import { CheckRequestSchema, CheckResponseSchema } from '../../proto/external_auth_pb.ts'
import type { CheckRequest } from '../../proto/external_auth_pb.ts'
import { readFrame } from './external-authorization.ts'
import { echo, ruleOf, serviceAt, shopService, startBackend, startWorld } from './testing.ts'
import type { Echoed, World } from './testing.ts'

const open: { close(): unknown }[] = []
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

type Answer = MessageInitShape<typeof CheckResponseSchema>
const authService = serviceAt('auth', 9000, 'auth')

/** Nobody here wrote the server; the messages are encoded by what was generated of Envoy's field numbers. */
async function startAuthorizer(check: (request: CheckRequest) => Answer | undefined): Promise<number> {
  const server = new Server()
  server.addService({
    Check: {
      path: '/envoy.service.auth.v3.Authorization/Check', requestStream: false, responseStream: false,
      requestSerialize: (message: CheckRequest) => Buffer.from(toBinary(CheckRequestSchema, message)),
      requestDeserialize: (bytes: Buffer) => fromBinary(CheckRequestSchema, bytes),
      responseSerialize: (answer: Answer) => Buffer.from(toBinary(CheckResponseSchema, create(CheckResponseSchema, answer))),
      responseDeserialize: (bytes: Buffer) => bytes,
    },
  }, { Check(call: ServerUnaryCall<CheckRequest, Answer>, done: sendUnaryData<Answer>) {
    const answer = check(call.request)
    if (answer) done(null, answer)
  } })
  const port = await new Promise<number>((resolve, reject) => server.bindAsync(
    '127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound)),
  ))
  open.push({ close: () => server.forceShutdown() })
  return port
}

const custom = { name: 'ask', namespace: 'shop', action: 'custom', provider: 'ours', isDryRun: false } as const
const customFor = (paths: readonly string[]): AuthorizationL7 => ({
  ...custom, rules: [[[{ ...emptyL7Match, notPaths: paths.map((value) => ({ kind: 'exact', value })) }]]],
})

function provider(parts: Partial<AuthorizationProvider> = {}): AuthorizationProvider {
  return {
    name: 'ours', protocol: 'grpc', service: 'auth/auth.auth.svc.cluster.local', port: 9000, timeoutMs: 2_000, isFailOpen: false,
    pathPrefix: '', includeRequestHeaders: [],
    headersToUpstream: [], headersToDownstream: [], bodyBytes: 0, statusOnError: 403, ...parts,
  }
}

async function world(
  port: number, parts: Partial<AuthorizationProvider> = {}, policies: readonly AuthorizationL7[] = [customFor(['/public'])],
): Promise<World> {
  const backend = await startBackend(echo)
  const made = await startWorld({ rules: [ruleOf()], policies, providers: [provider(parts)] }, [
    { service: shopService, port: backend.port },
    { service: authService, port, protocol: parts.protocol === 'http' ? 'http1' : 'http2' },
  ])
  open.push(backend, made)
  return made
}

const ok: Answer = { status: { code: 0 } }
const header = (key: string, value: string, more: object = {}): {
  header: { key: string; value: string },
} => ({ header: { key, value }, ...more })

describe('an authorizer by gRPC', () => {
  it('is told of the request, and of nobody where the policy does not ask', async () => {
    const asked: CheckRequest[] = []
    const made = await world(await startAuthorizer((request) => {
      asked.push(request)
      return ok
    }))
    expect((await fetch(`${made.url}/public`)).status).toBe(200)
    expect(asked).toHaveLength(0)
    await fetch(`${made.url}/a%41b?q=1`, { method: 'PUT', headers: { 'x-a': '1', authorization: 'Bearer t' }, body: 'hello' })
    expect(asked).toHaveLength(1)
    const { source, destination, request } = asked[0]?.attributes ?? {}
    expect(source).toMatchObject({
      principal: 'spiffe://cluster.local/ns/shop/sa/frontend',
      address: { socketAddress: { address: '10.1.0.7', portValue: 40_000 } },
    })
    expect(destination).toMatchObject({
      principal: 'spiffe://cluster.local/ns/shop/sa/waypoint',
      address: { socketAddress: { address: '10.96.0.20', portValue: 80 } },
    })
    expect(request?.http).toMatchObject({
      method: 'PUT', path: '/aAb?q=1', scheme: 'http', protocol: 'HTTP/1.1', size: 5n, body: '', host: `127.0.0.1:${made.port}`,
    })
    expect(request?.http?.headers).toMatchObject({
      'x-a': '1', authorization: 'Bearer t', 'x-forwarded-for': '10.1.0.7', ':path': '/aAb?q=1',
    })
  })

  it('sets, adds and removes headers of the request and of the answer', async () => {
    const made = await world(await startAuthorizer(() => ({ status: { code: 0 }, httpResponse: { case: 'okResponse', value: {
      headers: [
        header('x-user', 'ann'), header('x-list', 'b', { append: true }), header('x-there', 'new', { appendAction: 1 }),
        header('x-not-there', 'new', { appendAction: 3 }),
      ],
      headersToRemove: ['x-secret', 'host', ':path'], responseHeadersToAdd: [header('x-checked', 'yes')],
    } } })))
    const answer = await fetch(made.url, { headers: { 'x-user': 'root', 'x-list': 'a', 'x-there': 'old', 'x-secret': 's' } })
    const { headers } = await answer.json() as Echoed
    expect(headers).toMatchObject({ 'x-user': 'ann', 'x-list': 'a, b', 'x-there': 'old', host: `127.0.0.1:${made.port}` })
    expect(headers).not.toHaveProperty('x-secret')
    expect(headers).not.toHaveProperty('x-not-there')
    expect(answer.headers.get('x-checked')).toBe('yes')
  })

  it('writes no headers that break out, and none of framing', async () => {
    const made = await world(await startAuthorizer(() => ({ status: { code: 0 }, httpResponse: { case: 'okResponse', value: {
      headers: [
        header('x-a', 'b\r\nx-admin: 1'), header('x b', '1'), header('content-length', '0'),
        header('transfer-encoding', 'chunked'), header(':path', '/other'), header('host', 'evil'),
      ],
    } } })))
    const seen = await (await fetch(`${made.url}/p`, { method: 'POST', body: 'abc' })).json() as Echoed
    expect(seen).toMatchObject({ url: '/p', body: 'abc' })
    expect(Object.keys(seen.headers)).not.toEqual(expect.arrayContaining(['x-admin']))
    expect(seen.headers['x-a']).toBeUndefined()
    expect(seen.headers['host']).not.toBe('evil')
  })

  it('refuses with an answer of its own', async () => {
    const made = await world(await startAuthorizer(() => ({ status: { code: 7 }, httpResponse: { case: 'deniedResponse', value: {
      status: { code: 302 }, headers: [header('location', 'https://login.test/')], body: 'log in first',
    } } })))
    const answer = await fetch(made.url, { redirect: 'manual' })
    expect([answer.status, answer.headers.get('location'), await answer.text()]).toEqual([
      302, 'https://login.test/', 'log in first',
    ])
    expect(made.records[0]?.reasons[0]?.[0]).toBe('deniedByProvider')
    const grpc = await fetch(made.url, { headers: { 'content-type': 'application/grpc' } })
    expect([grpc.status, grpc.headers.get('grpc-message')]).toEqual([200, 'log in first'])
  })

  it('refuses by its status alone, and a yes beside a no is a no', async () => {
    const answers: Answer[] = [
      { status: { code: 16 } }, {}, { status: { code: 0 }, httpResponse: { case: 'deniedResponse', value: {} } },
      { status: { code: 7 }, httpResponse: { case: 'okResponse', value: {} } },
    ]
    const made = await world(await startAuthorizer(() => answers.shift()))
    for (let i = 0; i < 4; i++) expect((await fetch(made.url)).status).toBe(403)
  })

  it('does not overrule policies that refuse', async () => {
    const deny: AuthorizationL7 = { name: 'deny', namespace: 'shop', action: 'deny', isDryRun: false, rules: [[]] }
    const made = await world(await startAuthorizer(() => ok), {}, [customFor(['/public']), deny])
    const answer = await fetch(made.url)
    expect([answer.status, await answer.text()]).toEqual([403, 'RBAC: access denied'])
  })

  it('gets so much of the body as it wants, and the backend all of it', async () => {
    const bodies: { readonly body: string | undefined; readonly partial: string | undefined }[] = []
    const made = await world(await startAuthorizer(({ attributes }) => {
      const http = attributes?.request?.http
      bodies.push({ body: http?.body, partial: http?.headers['x-envoy-auth-partial-body'] })
      return ok
    }), { bodyBytes: 4 })
    for (const body of ['ab', 'abcd', 'abcdefgh', 'x'.repeat(500_000)]) {
      const seen = await (await fetch(made.url, { method: 'POST', body })).json() as Echoed
      expect(seen.body).toBe(body)
    }
    expect(bodies).toEqual([
      { body: 'ab', partial: 'false' }, { body: 'abcd', partial: 'false' }, { body: 'abcd', partial: 'true' },
      { body: 'xxxx', partial: 'true' },
    ])
  })

  it.each([
    [false, 403], [true, 200],
  ])('that does not answer lets through only if that was wanted (%s)', async (isFailOpen, status) => {
    const made = await world(await startAuthorizer(() => undefined), { timeoutMs: 100, isFailOpen })
    expect((await fetch(made.url)).status).toBe(status)
    expect(made.records[0]?.reasons[0]?.[0]).toBe('providerAway')
  })

  it('that is nowhere is answered with the status for that', async () => {
    const made = await world(1, { statusOnError: 503 })
    expect((await fetch(made.url)).status).toBe(503)
    made.change({ providers: [] })
    expect((await fetch(made.url)).status).toBe(403)
  })
})

describe('an authorizer by HTTP', () => {
  const started = async (listener: RequestListener): Promise<number> => {
    const backend = await startBackend(listener)
    open.push(backend)
    return backend.port
  }

  it('sees method, path, host and the headers that were named, and sets those that were named', async () => {
    const asked: { readonly line: string; readonly headers: Record<string, unknown> }[] = []
    const made = await world(await started((req, res) => {
      asked.push({ line: `${req.method} ${req.url}`, headers: req.headers })
      res.setHeader('x-user', 'ann').setHeader('x-other', 'no').end('ignored')
    }), { protocol: 'http', pathPrefix: '/check', includeRequestHeaders: ['x-wanted'], headersToUpstream: ['x-user'] })
    const seen = await (await fetch(
      `${made.url}/a?b=c`,
      { method: 'DELETE', headers: { authorization: 'Basic x', 'x-wanted': '1', 'x-private': '2', 'x-user': 'root' } },
    )).json() as Echoed
    expect(asked[0]?.line).toBe('DELETE /check/a?b=c')
    expect(asked[0]?.headers).toMatchObject({ host: `127.0.0.1:${made.port}`, authorization: 'Basic x', 'x-wanted': '1' })
    expect(asked[0]?.headers).not.toHaveProperty('x-private')
    expect(seen.headers).toMatchObject({ 'x-user': 'ann' })
    expect(seen.headers).not.toHaveProperty('x-other')
  })

  it('refuses with its answer, of which only the named headers are told', async () => {
    const made = await world(
      await started((_, res) => res.writeHead(
        401, { 'www-authenticate': 'Basic', 'x-why': 'because', 'x-internal': '1' },
      ).end('who are you?')),
      { protocol: 'http', headersToDownstream: ['x-why'] },
    )
    const answer = await fetch(made.url)
    expect([
      answer.status, answer.headers.get('www-authenticate'), answer.headers.get('x-why'), answer.headers.get('x-internal'),
      await answer.text(),
    ]).toEqual([401, 'Basic', 'because', null, 'who are you?'])
  })

  it.each([204, 302, 500, 503])('says yes with 200 alone, not with %i', async (status) => {
    const made = await world(await started((_, res) => res.writeHead(status).end()), { protocol: 'http', statusOnError: 503 })
    expect((await fetch(made.url, { redirect: 'manual' })).status).toBe(status >= 500 ? 503 : status)
    expect(made.records[0]?.service).toBeUndefined()
  })

  it('is not believed when its answer is without end', async () => {
    const made = await world(await started((_, res) => {
      const more = (): void => {
        while (!res.destroyed && res.write('x'.repeat(65_536))) { /* until it is full */ }
      }
      res.on('drain', more)
      more()
    }), { protocol: 'http' })
    expect((await fetch(made.url)).status).toBe(403)
  })
})

describe('the answer\'s frame', () => {
  it('is one message or a MeshError, whatever comes', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, isFramed) => {
      const frame = Buffer.alloc(5 + bytes.length)
      frame.writeUInt32BE(bytes.length, 1)
      frame.set(bytes, 5)
      try {
        readFrame(isFramed ? frame : Buffer.from(bytes))
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
      }
    }))
  })
})
