import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync, chmodSync } from 'node:fs'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import fc from 'fast-check'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { stringify } from 'yaml'
import type { MeshError } from '../core/errors.ts'
import { KubeClient } from './client.ts'
import { loadConnection } from './connection.ts'

let pki = ''
const opened: (() => unknown)[] = []
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close()
})

function directory(): string {
  const made = mkdtempSync(join(tmpdir(), 'sidestep-kube-'))
  opened.push(() => rmSync(made, { recursive: true }))
  return made
}

beforeAll(() => {
  pki = mkdtempSync(join(tmpdir(), 'sidestep-kube-pki-'))
  const openssl = (...args: string[]): unknown => execFileSync('openssl', args, { cwd: pki, stdio: 'pipe' })
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  for (const ca of ['ca', 'other']) openssl('req', '-x509', ...key, '-days', '2', '-subj', `/CN=${ca}`, '-keyout', `${ca}.key`, '-out', `${ca}.crt`)
  for (const name of ['server', 'client']) {
    openssl('req', ...key, '-subj', `/CN=${name}`, '-keyout', `${name}.key`, '-out', `${name}.csr`)
    writeFileSync(join(pki, 'ext'), 'subjectAltName=IP:127.0.0.1,DNS:api.test')
    openssl('x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'ext', '-out', `${name}.crt`)
  }
  return () => rmSync(pki, { recursive: true })
})

const pem = (name: string): string => readFileSync(join(pki, name), 'utf8')
const base64 = (name: string): string => readFileSync(join(pki, name)).toString('base64')

interface Shown {
  readonly authorization: string | undefined
  readonly client: string | undefined
  readonly servername: unknown
}

/** Answers with a pod, and notes who asked. */
async function server(): Promise<{ url: string; port: number; shown: Shown[] }> {
  const shown: Shown[] = []
  const made: Server = createServer({ key: pem('server.key'), cert: pem('server.crt'), ca: pem('ca.crt'), requestCert: true, rejectUnauthorized: false }, (request, response) => {
    const socket = request.socket as TLSSocket
    const { subject } = socket.getPeerCertificate() as { subject?: { CN?: string } }
    shown.push({ authorization: request.headers.authorization, client: subject?.CN, servername: socket.servername })
    response.end(JSON.stringify({ kind: 'Pod', apiVersion: 'v1', metadata: { name: 'a' } }))
  })
  await new Promise<void>((done) => made.listen(0, '127.0.0.1', done))
  opened.push(() => {
    made.closeAllConnections()
    made.close()
  })
  const { port } = made.address() as AddressInfo
  return { url: `https://127.0.0.1:${port}`, port, shown }
}

interface Parts {
  cluster?: object
  user?: object | null
  context?: object
  more?: object
}

function kubeconfig(url: string, { cluster = {}, user = {}, context = {}, more = {} }: Parts = {}): string {
  const path = join(directory(), 'config')
  writeFileSync(path, stringify({
    apiVersion: 'v1', kind: 'Config', 'current-context': 'x',
    clusters: [{ name: 'c', cluster: { server: url, 'certificate-authority-data': base64('ca.crt'), ...cluster } }],
    users: [{ name: 'u', user }], contexts: [{ name: 'x', context: { cluster: 'c', user: 'u', ...context } }], ...more,
  }))
  return path
}

async function ask(environment: Record<string, string>, options: Partial<Parameters<typeof loadConnection>[0]> = {}): Promise<KubeClient> {
  const client = new KubeClient(await loadConnection({ environment, ...options }))
  opened.push(() => client.close())
  await client.get('/api/v1/namespaces/shop/pods/a', { timeoutMs: 5_000 })
  return client
}

describe('a connection by kubeconfig', () => {
  it('shows a client certificate', async () => {
    const { url, shown } = await server()
    const client = await ask({ KUBECONFIG: kubeconfig(url, { user: { 'client-certificate-data': base64('client.crt'), 'client-key-data': base64('client.key') }, context: { namespace: 'dev' } }) })
    expect(shown[0]).toMatchObject({ client: 'client', authorization: undefined })
    expect(client.namespace).toBe('dev')
  })

  it('reads files beside it, and shows a token', async () => {
    const { url, shown } = await server()
    const path = kubeconfig(url, { cluster: { 'certificate-authority-data': undefined, 'certificate-authority': 'root.pem' }, user: { tokenFile: 'token' } })
    writeFileSync(join(path, '../root.pem'), pem('ca.crt'))
    writeFileSync(join(path, '../token'), 't1\n')
    await ask({ KUBECONFIG: path })
    expect(shown[0]?.authorization).toBe('Bearer t1')
  })

  it('takes another name for the server, and no other root', async () => {
    const { url, shown } = await server()
    await ask({ KUBECONFIG: kubeconfig(url, { cluster: { 'tls-server-name': 'api.test' } }) })
    expect(shown[0]?.servername).toBe('api.test')
    await expect(ask({ KUBECONFIG: kubeconfig(url, { cluster: { 'tls-server-name': 'other.test' } }) })).rejects.toMatchObject({ code: 'KUBE_UNREACHABLE' })
    await expect(ask({ KUBECONFIG: kubeconfig(url, { cluster: { 'certificate-authority-data': base64('other.crt') } }) })).rejects.toMatchObject({ code: 'KUBE_UNREACHABLE' })
    expect(shown.length).toBe(1)
    await ask({ KUBECONFIG: kubeconfig(url, { cluster: { 'certificate-authority-data': base64('other.crt'), 'insecure-skip-tls-verify': true } }) })
  })

  it('merges files as kubectl does, and takes another context', async () => {
    const { url, shown } = await server()
    const first = kubeconfig('https://127.0.0.1:1', { more: { contexts: [{ name: 'x', context: { cluster: 'good', user: 'u' } }] }, user: { token: 'first' } })
    const second = kubeconfig('https://127.0.0.1:1', { more: {
      clusters: [{ name: 'good', cluster: { server: url, 'certificate-authority-data': base64('ca.crt') } }], contexts: [{ name: 'y', context: { cluster: 'good', user: 'v' } }],
      users: [{ name: 'u', user: { token: 'second' } }, { name: 'v', user: { token: 'v' } }],
    } })
    await ask({ KUBECONFIG: `/nowhere:${first}:${second}` })
    await ask({ KUBECONFIG: `${first}:${second}` }, { context: 'y' })
    expect(shown.map(({ authorization }) => authorization)).toEqual(['Bearer first', 'Bearer v'])
  })

  it('runs a plugin when it must, and again when its credentials end', async () => {
    const { url, shown } = await server()
    const path = kubeconfig(url, { user: { exec: { apiVersion: 'client.authentication.k8s.io/v1', command: './plugin', args: ['x'], env: [{ name: 'EXTRA', value: 'e' }], interactiveMode: 'Never' } } })
    const plugin = join(path, '../plugin')
    const count = join(path, '../count')
    writeFileSync(plugin, `#!/bin/sh
echo run >> ${count}
n=$(wc -l < ${count})
if [ "$n" = 1 ]; then ends=$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ); else ends=2099-01-01T00:00:00Z; fi
echo "{\\"apiVersion\\":\\"client.authentication.k8s.io/v1\\",\\"kind\\":\\"ExecCredential\\",\\"status\\":{\\"token\\":\\"$1-$EXTRA-$n\\",\\"expirationTimestamp\\":\\"$ends\\"}}"
`)
    chmodSync(plugin, 0o755)
    // Ends within the ten seconds in which credentials count as ended already.
    const client = await ask({ KUBECONFIG: path, PATH: process.env['PATH'] ?? '' })
    await client.get('/api/v1/namespaces/shop/pods/a')
    await client.get('/api/v1/namespaces/shop/pods/a')
    expect(shown[0]?.authorization).toMatch(/^Bearer x-e-\d$/)
    expect(shown.at(-1)?.authorization).toBe(shown.at(-2)?.authorization)
    expect(Number(shown.at(-1)?.authorization?.at(-1))).toBeGreaterThan(1)
  })

  it.each([
    ['fails', 'echo secret-thing; exit 3'], ['says nothing', 'true'], ['says nonsense', 'echo secret-thing'], ['floods', 'yes secret-thing'],
    ['gives nothing', 'echo \'{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{}}\''],
  ])('says that a plugin %s, without what it said', async (_, script) => {
    const path = kubeconfig('https://127.0.0.1:1', { user: { exec: { apiVersion: 'client.authentication.k8s.io/v1', command: 'sh', args: ['-c', script] } } })
    const error = await ask({ KUBECONFIG: path, PATH: process.env['PATH'] ?? '' }).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: 'COMMAND_FAILED' })
    expect(JSON.stringify([String(error), (error as MeshError).detail])).not.toContain('secret-thing')
  })

  it.each<[string, Parts, string?]>([
    ['http to elsewhere', { user: { token: 't' } }, 'http://10.0.0.1:80'], ['no URL', {}, 'nonsense'], ['another scheme', {}, 'ftp://x'],
    ['a proxy', { cluster: { 'proxy-url': 'http://p' } }], ['an unknown user', { context: { user: 'w' } }], ['an unknown cluster', { context: { cluster: 'w' } }],
    ['half a certificate', { user: { 'client-certificate-data': 'eA==' } }], ['a missing file', { user: { 'client-certificate': '/nowhere', 'client-key': '/nowhere' } }],
    ['an old auth-provider', { user: { 'auth-provider': { name: 'gcp' } } }], ['no current context', { more: { 'current-context': '' } }],
    ['a plugin for terminals', { user: { exec: { apiVersion: 'client.authentication.k8s.io/v1', command: 'x', interactiveMode: 'Always' } } }],
    ['a token of two lines', { user: { token: 'a\nb' } }],
  ])('refuses %s', async (_, parts, url = 'https://127.0.0.1:1') => {
    await expect(ask({ KUBECONFIG: kubeconfig(url, parts) })).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })

  it('lets only errors of ours out, whatever the file says', async () => {
    const path = join(directory(), 'config')
    await fc.assert(fc.asyncProperty(fc.oneof(fc.string(), fc.json()), async (text) => {
      writeFileSync(path, text)
      const error: unknown = await loadConnection({ environment: { KUBECONFIG: path } }).catch((reason: unknown) => reason)
      expect(error).toMatchObject({ code: 'BAD_CONFIG' })
    }), { numRuns: 200 })
    await expect(loadConnection({ environment: { KUBECONFIG: '/nowhere' } })).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    await expect(loadConnection({ environment: {} })).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    writeFileSync(path, 'users: [{name: u, user: {token: {secret-thing: 1}}}]')
    const error: unknown = await loadConnection({ environment: { KUBECONFIG: path } }).catch((reason: unknown) => reason)
    expect(String(error)).not.toContain('secret-thing')
  })
})

describe('a connection by service account', () => {
  it('follows its token and its root', async () => {
    const { port, shown } = await server()
    const files = directory()
    const write = (name: string, text: string): void => {
      writeFileSync(join(files, `${name}.new`), text)
      renameSync(join(files, `${name}.new`), join(files, name))
    }
    write('token', 't1')
    write('ca.crt', pem('ca.crt'))
    write('namespace', 'sidestep-system\n')
    let nowMs = 0
    const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs, after: () => () => {} }
    const environment = { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: String(port), HOME: '/nowhere' }
    const client = await ask(environment, { serviceAccountDirectory: files, clock })
    expect(client).toMatchObject({ namespace: 'sidestep-system', origin: 'in-cluster' })
    write('token', 't2')
    await client.get('/api/v1/namespaces/shop/pods/a')
    nowMs += 61_000
    await client.get('/api/v1/namespaces/shop/pods/a')
    rmSync(join(files, 'token'))
    nowMs += 61_000
    await client.get('/api/v1/namespaces/shop/pods/a')
    expect(shown.map(({ authorization }) => authorization)).toEqual(['Bearer t1', 'Bearer t1', 'Bearer t2', 'Bearer t2'])
    write('ca.crt', pem('other.crt'))
    nowMs += 61_000
    await expect(client.get('/api/v1/namespaces/shop/pods/a', { timeoutMs: 5_000 })).rejects.toMatchObject({ code: 'KUBE_UNREACHABLE' })
  })

  it('says what is missing', async () => {
    await expect(ask({ KUBERNETES_SERVICE_HOST: '127.0.0.1' }, { serviceAccountDirectory: directory() })).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })
})
