// What waypoints carry, between clients and servers that nobody here wrote: gRPC of every kind, WebSockets, server-sent events, nginx
// and Python behind, a database whose server speaks first, TLS that stays closed.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { fetchNginx } from '../bench/rivals/fetch.ts'
import { goPrograms, mariadb, python } from '../helpers/foreign.ts'
import type { GoPrograms } from '../helpers/foreign.ts'
import { object, pod, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const file = (name: string): string => fileURLToPath(new URL(`../foreign/${name}`, import.meta.url))
const base = mkdtempSync(join(tmpdir(), 'sidestep-protocols-'))
let world: WaypointWorld
let go: GoPrograms
let interpreter: string

const server = (name: string, command: readonly string[], port: number, portName: string): Yaml[] => [
  pod(name, 'node-b', { command, readinessProbe: { tcpSocket: { port }, periodSeconds: 1 } }),
  { apiVersion: 'v1', kind: 'Service', metadata: { name, namespace: 'shop' }, spec: { selector: { app: name }, ports: [{ name: portName, port, targetPort: port }] } },
]

beforeAll(async () => {
  go = await goPrograms()
  interpreter = await python()
  const database = await mariadb()
  const nginx = await fetchNginx()
  if (nginx.t === 'missing') throw new Error(nginx.because)
  writeFileSync(join(base, 'nginx.conf'), `user root; daemon off; pid ${base}/nginx.pid; error_log stderr; events {} http { access_log off; client_body_temp_path ${base}/body; proxy_temp_path ${base}/proxy;
    fastcgi_temp_path ${base}/f; uwsgi_temp_path ${base}/u; scgi_temp_path ${base}/s; client_max_body_size 0;
    server { listen 8088; location / { return 200 "nginx $request_uri\\n"; } location /file { alias ${base}/file; } } }`)
  writeFileSync(join(base, 'file'), Buffer.alloc(20 << 20, 'x'))
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=tls.shop', '-addext', 'subjectAltName=DNS:tls.shop.svc.cluster.local',
    '-keyout', join(base, 'key.pem'), '-out', join(base, 'cert.pem')], { stdio: 'ignore' })
  const data = mkdtempSync(join(base, 'data-'))
  world = await WaypointWorld.start([
    ...server('interop', [go.grpcServer, '--port=9090', '--use_tls=false'], 9090, 'grpc'),
    ...server('sockets', [interpreter, file('websocket_suite.py'), 'serve', '0.0.0.0', '8765'], 8765, 'http'),
    ...server('python', [interpreter, file('http_backend.py'), '8077'], 8077, 'http'),
    ...server('nginx', [nginx.files.binary, '-c', join(base, 'nginx.conf'), '-p', base], 8088, 'http'),
    ...server('database', [...database.command, '--no-defaults', `--datadir=${data}`, '--skip-grant-tables', '--bind-address=*', '--port=3306', `--socket=${data}/socket`, `--pid-file=${data}/pid`,
      '--user=root', `--lc-messages-dir=${database.share}`], 3306, 'tcp'),
    // The same without a word about what it speaks.
    { apiVersion: 'v1', kind: 'Service', metadata: { name: 'untold', namespace: 'shop' }, spec: { selector: { app: 'database' }, ports: [{ port: 3306 }] } },
    ...server('tls', [process.execPath, '-e', `require('node:https').createServer({ key: require('fs').readFileSync('${base}/key.pem'), cert: require('fs').readFileSync('${base}/cert.pem') },
      (q, s) => s.end('through ' + q.socket.servername)).listen(8443, '::')`], 8443, 'tls'),
  ])
}, 240_000)
afterAll(async () => {
  await world?.[Symbol.asyncDispose]()
  rmSync(base, { recursive: true, force: true })
})

describe('gRPC', () => {
  it('passes the interop tests of Go, and is routed by method', async () => {
    const attempt = async (name: string): Promise<{ code: number; stderr: string }> =>
      world.exec('client', [go.grpcClient, '--server_host=interop', '--server_port=9090', '--use_tls=false', `--test_case=${name}`])
    const cases = [
      'empty_unary', 'large_unary', 'client_streaming', 'server_streaming', 'ping_pong', 'empty_stream', 'timeout_on_sleeping_server', 'cancel_after_begin',
      'cancel_after_first_response', 'status_code_and_message', 'special_status_message', 'unimplemented_method', 'unimplemented_service', 'custom_metadata',
    ]
    const failed: string[] = []
    for (const name of cases) {
      const { code, stderr } = await attempt(name)
      if (code !== 0) failed.push(`${name}: ${stderr.trim().slice(-400)}`)
    }
    expect(failed).toEqual([])
    const deny = object('security.istio.io/v1', 'AuthorizationPolicy', 'no-unary', {
      targetRefs: [{ group: '', kind: 'Service', name: 'interop' }], action: 'DENY', rules: [{ to: [{ operation: { paths: ['/grpc.testing.TestService/UnaryCall'] } }] }],
    })
    await world.during([deny], async () => (await attempt('large_unary')).stderr.includes('PermissionDenied'), async () => {
      expect((await attempt('ping_pong')).code).toBe(0)
    })
  }, 120_000)
})

describe('WebSockets', () => {
  it('pass the cases where proxies break them', async () => {
    const { stdout } = await world.exec('client', [interpreter, file('websocket_suite.py'), 'try', 'sockets', '8765'])
    expect(stdout.split('\n').filter((line) => line.startsWith('failed'))).toEqual([])
    expect(stdout.match(/^ok /gm)).toHaveLength(11)
  }, 120_000)
})

describe('backends of others', () => {
  it('nginx answers, also with 20 MiB, byte for byte', async () => {
    expect((await world.curl('client', 'http://nginx:8088/where?x=1')).body).toBe('nginx /where?x=1\n')
    const { stdout } = await world.exec('client', ['sh', '-c', 'curl -sS http://nginx:8088/file | sha256sum'])
    expect(stdout.slice(0, 64)).toBe(execFileSync('sha256sum', [join(base, 'file')], { encoding: 'utf8' }).slice(0, 64))
  })

  it('Python answers, and gets a large upload whole', async () => {
    const { stdout } = await world.exec('client', ['curl', '-sS', '-X', 'POST', '-T', join(base, 'file'), '-H', 'expect:', 'http://python:8077/up'])
    expect(stdout).toBe(`python /up ${20 << 20}`)
    const chunked = await world.exec('client', ['curl', '-sS', '-X', 'POST', '-H', 'transfer-encoding: chunked', '-d', 'abc', 'http://python:8077/short'])
    expect(chunked.code).toBe(0)
  })

  it('events arrive as they are sent, not all at the end', async () => {
    const begun = performance.now()
    const { stdout } = await world.exec('client', ['sh', '-c', 'curl -sSN http://web-v1/stream/40 | head -c 9'])
    expect(stdout).toBe('data: 0\n\n')
    expect(performance.now() - begun).toBeLessThan(1_900)
  })
})

describe('what is not HTTP', () => {
  it('a server that speaks first is heard, whether its port says so or not', async () => {
    for (const name of ['database', 'untold']) {
      const { stdout, stderr } = await world.exec('client', [interpreter, file('mariadb_query.py'), name, '3306'])
      expect([name, stdout.trim(), stderr]).toEqual([name, '3', ''])
    }
  }, 60_000)

  it('TLS stays closed, and is routed by its server name', async () => {
    const url = 'https://tls.shop.svc.cluster.local:8443/'
    const ask = async (): Promise<string> => (await world.exec('client', ['curl', '-sS', '--max-time', '10', '--cacert', join(base, 'cert.pem'), url])).stdout
    expect(await ask()).toBe('through tls.shop.svc.cluster.local')
    const route = object('gateway.networking.k8s.io/v1', 'TLSRoute', 'other', {
      parentRefs: [{ group: '', kind: 'Service', name: 'tls' }], hostnames: ['other.example'], rules: [{ backendRefs: [{ name: 'tls', port: 8443 }] }],
    })
    await world.during([route], async () => (await ask()) === '')
    expect(await ask()).toBe('through tls.shop.svc.cluster.local')
  })
})
