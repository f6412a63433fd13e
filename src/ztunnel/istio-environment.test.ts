// What Istio's ztunnel would be told, told to ours: each variable honoured, noted or refused, and ours before Istio's.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { assert, constantFrom, dictionary, property, string } from 'fast-check'
import { expect, test } from 'vitest'
import { configSchema, readConfig, secretSettings } from './config.ts'
import { caOptionsOf, nodeOf, rootsOf, xdsOptionsOf } from '../member/control-plane-options.ts'
import { fromIstio } from './istio-environment.ts'

/** As the DaemonSet of Istio sets it. */
const daemonSet = {
  XDS_ADDRESS: 'https://istiod.istio-system.svc:15012', CA_ADDRESS: 'istiod.istio-system.svc:15012', CLUSTER_ID: 'east', NODE_NAME: 'worker-1',
  POD_NAME: 'ztunnel-abcde', POD_NAMESPACE: 'istio-system', INSTANCE_IP: '10.1.2.3', SERVICE_ACCOUNT: 'ztunnel', RUST_LOG: 'info',
  TERMINATION_GRACE_PERIOD_SECONDS: '30', ISTIO_META_ENABLE_HBONE: 'true', INPOD_ENABLED: 'true', NETWORK: 'net-1', PATH: '/usr/bin',
}

test('a DaemonSet of Istio is understood', () => {
  const config = readConfig(daemonSet)
  expect(config).toMatchObject({
    xdsAddress: 'istiod.istio-system.svc:15012', caAddress: 'istiod.istio-system.svc:15012', clusterId: 'east', node: 'worker-1', podName: 'ztunnel-abcde',
    podNamespace: 'istio-system', instanceIp: '10.1.2.3', network: 'net-1', logLevel: 'info', drainSeconds: 25, zdsSocket: '/var/run/ztunnel/ztunnel.sock',
    rootsFile: './var/run/secrets/istio/root-cert.pem', caRootsFile: './var/run/secrets/istio/root-cert.pem', tokenFile: './var/run/secrets/tokens/istio-token',
    token: '', accessLog: 'text', captureDns: true, certificateTtlSeconds: 86_400, trustDomain: 'cluster.local',
  })
  expect(nodeOf(config, 'ztunnel')).toEqual({
    id: 'ztunnel~10.1.2.3~ztunnel-abcde.istio-system~istio-system.svc.cluster.local',
    metadata: { ENABLE_HBONE: 'true', NAME: 'ztunnel-abcde', NAMESPACE: 'istio-system', NODE_NAME: 'worker-1', CLUSTER_ID: 'east', INSTANCE_IPS: '10.1.2.3' },
  })
  expect(fromIstio(daemonSet).notes).toEqual([expect.stringContaining('SERVICE_ACCOUNT')])
})

test('without a variable that only Istio has, nothing of it counts', () => {
  const environment = { NODE_NAME: 'x', NETWORK: 'y', TRUST_DOMAIN: 'z', CLUSTER_ID: 'c', POD_NAME: 'p', RUST_LOG: 'debug', AUTH_TOKEN: 'secret', COMPLIANCE_POLICY: 'pqc' }
  expect(fromIstio(environment)).toEqual({ settings: {}, origins: {}, notes: [], refused: [] })
  expect(readConfig(environment)).toEqual(readConfig({}))
})

test('our own variables win, and what Istio would only assume beside them does not count', () => {
  const config = readConfig({
    ...daemonSet, SIDESTEP_XDS_ADDRESS: 'own:1', SIDESTEP_NODE: 'mine', SIDESTEP_ROOTS_FILE: '/own/roots', SIDESTEP_TOKEN_FILE: '/own/token', AUTH_TOKEN: 'literal',
    SIDESTEP_AGENT_SOCKET: '/own/agent.sock', SIDESTEP_SERVER_NAME: 'own.name', INPOD_UDS: '/istio.sock', SIDESTEP_DRAIN_SECONDS: '7',
  })
  expect(config).toMatchObject({
    xdsAddress: 'own:1', node: 'mine', rootsFile: '/own/roots', caRootsFile: '', tokenFile: '/own/token', token: '', zdsSocket: '', agentSocket: '/own/agent.sock',
    serverName: 'own.name', caServerName: '', drainSeconds: 7,
  })
  const { CA_ADDRESS: _none, ...withoutCa } = daemonSet
  expect(readConfig({ ...withoutCa, SIDESTEP_XDS_ADDRESS: 'own:1' })).toMatchObject({ caAddress: '' })
  expect(readConfig(withoutCa)).toMatchObject({ caAddress: 'istiod.istio-system.svc:15012' })
})

test.each([
  [{ XDS_ADDRESS: 'https://istiod:15012/' }, { xdsAddress: 'istiod:15012' }],
  [{ XDS_ADDRESS: 'https://istiod' }, { xdsAddress: 'istiod:443' }],
  [{ XDS_ADDRESS: '[fd00::1]:15012' }, { xdsAddress: '[fd00::1]:15012', caServerName: 'istiod.istio-system.svc' }],
  [{ CA_ADDRESS: 'ca.example:1' }, { caAddress: 'ca.example:1', caServerName: 'ca.example' }],
  [{ CA_ADDRESS: 'ca:1', ALT_XDS_HOSTNAME: 'xds.name' }, { serverName: 'xds.name', caServerName: 'ca' }],
  [{ CA_ADDRESS: 'ca:1', ALT_CA_HOSTNAME: 'ca.name' }, { serverName: '', caServerName: 'ca.name' }],
  [{ XDS_ROOT_CA: 'SYSTEM', CA_ROOT_CA: '/ca.pem' }, { rootsFile: 'SYSTEM', caRootsFile: '/ca.pem' }],
  [{ XDS_ROOT_CA: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' }, { rootsFile: expect.stringContaining('AAAA') }],
  [{ AUTH_TOKEN: 'aaa.bbb.ccc' }, { token: 'aaa.bbb.ccc' }],
  [{ AUTH_TOKEN: './tokens/mine' }, { token: '', tokenFile: './tokens/mine' }],
  [{ SECRET_TTL: '1h30m' }, { certificateTtlSeconds: 5_400 }],
  [{ SECRET_TTL: '90s' }, { certificateTtlSeconds: 90 }],
  [{ SECRET_TTL: '3600' }, { certificateTtlSeconds: 3_600 }],
  [{ CRL_PATH: '/crl.pem' }, { crlFile: '/crl.pem' }],
  [{ CLUSTER_DOMAIN: 'mesh.example' }, { clusterDomain: 'mesh.example' }],
  [{ INPOD_UDS: '/other.sock' }, { zdsSocket: '/other.sock' }],
  [{ ISTIO_META_DNS_CAPTURE: 'false' }, { captureDns: false }],
  [{ ISTIO_META_DNS_CAPTURE: 'true' }, { captureDns: true }],
  [{ LOG_FORMAT: 'json' }, { accessLog: 'json' }],
  [{ RUST_LOG: 'warn,access=off' }, { logLevel: 'warn', accessLog: 'off' }],
  [{ RUST_LOG: 'trace' }, { logLevel: 'debug' }],
  [{ TERMINATION_GRACE_PERIOD_SECONDS: '10' }, { drainSeconds: 9 }],
  [{ TERMINATION_GRACE_PERIOD_SECONDS: '1' }, { drainSeconds: 1 }],
  [{ TERMINATION_GRACE_PERIOD_SECONDS: '60', CONNECTION_TERMINATION_DEADLINE: '90s' }, { drainSeconds: 90 }],
  // 0 would mean no end at all here.
  [{ CONNECTION_TERMINATION_DEADLINE: '0s' }, { drainSeconds: 1 }],
  [{ TRUST_DOMAIN: 'example.org' }, { trustDomain: 'example.org' }],
  [{ XDS_HEADER_X_Tenant: 'a', 'CA_HEADER_y-z': 'b' }, { xdsHeaders: '{"x_tenant":"a"}', caHeaders: '{"y-z":"b"}' }],
  [{ ISTIO_METAJSON_LABELS: '{"a":"b"}', ISTIO_META_X: '1' }, { nodeMetadata: '{"X":"1","LABELS":{"a":"b"}}' }],
])('%j becomes %j', (environment, wanted) => {
  expect(readConfig({ INPOD_ENABLED: 'true', ...environment })).toMatchObject(wanted)
})

test.each([
  [{ FAKE_CA: 'true' }, 'FAKE_CA'], [{ LOCAL_XDS: 'workloads: []' }, 'LOCAL_XDS'], [{ LOCAL_XDS_PATH: '/x.yaml' }, 'LOCAL_XDS_PATH'],
  [{ PROXY_MODE: 'dedicated' }, 'PROXY_MODE'], [{ PROXY_MODE: 'shared', ENABLE_PROXY: 'false' }, 'ENABLE_PROXY'], [{ INPOD_ENABLED: 'false' }, 'INPOD_ENABLED'],
  [{ XDS_ADDRESS: 'istiod:15012', COMPLIANCE_POLICY: 'pqc' }, 'COMPLIANCE_POLICY'],
  [{ XDS_ADDRESS: 'http://istiod:15010' }, 'XDS_ADDRESS'], [{ XDS_ADDRESS: 'https://a/b' }, 'XDS_ADDRESS'], [{ XDS_ADDRESS: '' }, 'XDS_ADDRESS'],
  [{ CA_ADDRESS: 'https://user@ca' }, 'CA_ADDRESS'], [{ CA_ADDRESS: 'x', SECRET_TTL: 'soon' }, 'SECRET_TTL'],
  [{ CA_ADDRESS: 'x', TRUST_DOMAIN: 'Not A Domain' }, 'TRUST_DOMAIN'], [{ CA_ADDRESS: 'x', INSTANCE_IP: 'nowhere' }, 'INSTANCE_IP'],
  [{ CA_ADDRESS: 'x', TERMINATION_GRACE_PERIOD_SECONDS: '-1' }, 'TERMINATION_GRACE_PERIOD_SECONDS'],
  [{ CA_ADDRESS: 'x', XDS_HEADER_AUTHORIZATION: 'Bearer x' }, 'XDS_HEADER_AUTHORIZATION'], [{ CA_ADDRESS: 'x', 'CA_HEADER_a b': 'x' }, 'CA_HEADER_a b'],
  [{ CA_ADDRESS: 'x', XDS_HEADER_A: 'line\nbreak' }, 'XDS_HEADER_A'], [{ CA_ADDRESS: 'x', 'XDS_HEADER_A-BIN': 'x' }, 'XDS_HEADER_A-BIN'],
  [{ ISTIO_METAJSON_A: '{' }, 'ISTIO_METAJSON_A'],
])('%j is refused, with its name', (environment, name) => {
  expect(() => readConfig(environment)).toThrow(expect.objectContaining({ code: 'BAD_CONFIG', message: expect.stringContaining(`${name}:`) }))
})

test('a token is in no error, and is a secret', () => {
  expect(() => readConfig({ XDS_ADDRESS: 'x', AUTH_TOKEN: 'x'.repeat(70_000) })).toThrow(expect.objectContaining({ message: expect.not.stringContaining('xxxx') }))
  expect([...secretSettings].sort()).toEqual(['caHeaders', 'token', 'xdsHeaders'])
})

test.each([
  ['TLS12_ENABLED', 'true', 'false'], ['ENABLE_ORIG_SRC', 'false', 'true'], ['IPV6_ENABLED', 'false', 'true'], ['UNSTABLE_ENABLE_SOCKS5', 'true', 'false'],
  ['POOL_UNUSED_RELEASE_TIMEOUT', '1m', '5m'], ['HTTP2_FRAME_SIZE', '16384', '1048576'], ['XDS_ON_DEMAND', 'true', 'false'], ['RUST_LOG', 'ztunnel::proxy=debug', 'debug'],
])('%s of %s is noted, of %s not', (name, noted, neutral) => {
  expect(fromIstio({ INPOD_ENABLED: 'true', [name]: noted }).notes).toEqual([expect.stringContaining(name)])
  expect(fromIstio({ INPOD_ENABLED: 'true', [name]: neutral }).notes).toEqual([])
})

test('whatever is in the environment: settings that exist, or BAD_CONFIG', () => {
  const names = [
    ...Object.keys(daemonSet), 'XDS_ROOT_CA', 'CA_ROOT_CA', 'ALT_XDS_HOSTNAME', 'ALT_CA_HOSTNAME', 'AUTH_TOKEN', 'XDS_HEADER_A', 'CA_HEADER_B', 'ISTIO_META_', 'ISTIO_METAJSON_C',
    'SECRET_TTL', 'CRL_PATH', 'LOG_FORMAT', 'CONNECTION_TERMINATION_DEADLINE', 'ISTIO_META_DNS_CAPTURE', 'INPOD_UDS', '__proto__', 'constructor', 'ISTIO_META___proto__',
  ]
  const value = constantFrom('true', 'false', '1', '30', 'https://x:1', '{"a":1}', '-----BEGIN ', '', '5m', 'a=b,c')
  const environment = dictionary(constantFrom(...names), value, { maxKeys: 12, noNullPrototype: true })
  assert(property(environment, (given) => {
    const { settings, origins } = fromIstio(given)
    for (const key of [...Object.keys(settings), ...Object.keys(origins)]) expect(Object.keys(configSchema.shape)).toContain(key)
    try {
      const config = readConfig(given)
      xdsOptionsOf(config, 'ztunnel')
      caOptionsOf(config)
    } catch (error) {
      expect(error).toMatchObject({ code: 'BAD_CONFIG' })
    }
  }), { numRuns: 2_000 })
  assert(property(constantFrom(...names), string(), (name, text) => {
    try {
      readConfig({ INPOD_ENABLED: 'true', [name]: text })
    } catch (error) {
      expect(error).toMatchObject({ code: 'BAD_CONFIG' })
    }
  }), { numRuns: 2_000 })
})

test('roots are read each time from a file, taken as they are, or those of the system', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-roots-'))
  const file = join(directory, 'roots.pem')
  writeFileSync(file, 'first')
  const roots = rootsOf(file)
  expect(await roots()).toBe('first')
  writeFileSync(file, 'second')
  expect(await roots()).toBe('second')
  rmSync(directory, { recursive: true })
  await expect(roots()).rejects.toThrow('ENOENT')
  const pem = '-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----'
  expect(await rootsOf(pem)()).toBe(pem)
  expect(await rootsOf('SYSTEM')()).toBeUndefined()
  expect(await rootsOf('')()).toBeUndefined()
})

test('control plane and CA have their own roots, names and headers, and one token', async () => {
  const config = readConfig({
    XDS_ADDRESS: 'istiod:15012', CA_ADDRESS: 'ca:1', XDS_ROOT_CA: 'SYSTEM', CA_ROOT_CA: '-----BEGIN X', AUTH_TOKEN: 'abc', XDS_HEADER_A: '1', CA_HEADER_B: '2', ALT_XDS_HOSTNAME: 'name',
  })
  const xds = xdsOptionsOf(config, 'ztunnel')
  const ca = caOptionsOf(config)
  expect(xds).toMatchObject({ address: 'istiod:15012', serverName: 'name', headers: { a: '1' } })
  expect(ca).toMatchObject({ address: 'ca:1', serverName: 'ca', headers: { b: '2' } })
  expect([await xds.roots(), await ca.roots(), await xds.token?.(), await ca.token?.()]).toEqual([undefined, '-----BEGIN X', 'abc', 'abc'])
  const own = readConfig({ SIDESTEP_XDS_ADDRESS: 'one:1', SIDESTEP_SERVER_NAME: 'n', SIDESTEP_TOKEN_FILE: '/none', SIDESTEP_NODE: 'n1' })
  expect(caOptionsOf(own)).toMatchObject({ address: 'one:1', serverName: 'n', headers: {} })
  expect(nodeOf(own, 'ztunnel')).toMatchObject({ id: 'ztunnel~1.1.1.1~n1.sidestep-system~sidestep-system.svc.cluster.local', metadata: { NODE_NAME: 'n1', NAMESPACE: 'sidestep-system' } })
})
