// What tests of this room share: small workloads and policies, a certificate, and a server on loopback. Product code never
// imports this.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { Client, Metadata, Server, ServerCredentials, credentials } from '@grpc/grpc-js'
import { silentLogger } from '../core/log.ts'
import type { Authorization } from '../model/authorization.ts'
import type { Service, Workload } from '../model/workload.ts'
import { DeltaDiscoveryRequestSchema } from '../proto/discovery_pb.ts'
import { XdsClient, deltaMethod } from './client.ts'
import type { XdsClientOptions } from './client-options.ts'
import { decodeFrame, parseResponse } from './frames.ts'
import type { XdsDelta } from './resource-cache.ts'
import { XdsServer } from './server.ts'
import type { XdsServerOptions } from './server-options.ts'
import { grpcServerOptions } from './server-options.ts'
import { XdsStore } from './store.ts'

export function aWorkload(name: string, fields: Partial<Workload> = {}): Workload {
  return {
    uid: `c1//Pod/shop/${name}`,
    name,
    namespace: 'shop',
    ips: ['10.0.0.1'],
    network: '',
    trustDomain: 'cluster.local',
    serviceAccount: name,
    node: 'n1',
    clusterId: 'c1',
    tunnelProtocol: 'hbone',
    nativeTunnel: false,
    isHostNetwork: false,
    canonicalName: name,
    canonicalRevision: 'v1',
    workloadType: 'deployment',
    workloadName: name,
    isHealthy: true,
    capacity: 1,
    locality: { region: '', zone: '', subzone: '' },
    policies: [],
    services: new Map(),
    ...fields,
  }
}

export function aService(name: string, fields: Partial<Service> = {}): Service {
  return {
    name,
    namespace: 'shop',
    hostname: `${name}.shop.svc.cluster.local`,
    addresses: [{ network: '', ip: '10.96.0.1' }],
    ports: [{ servicePort: 80, targetPort: 8080, appProtocol: 'http11' }],
    subjectAltNames: [],
    ipFamilies: 'automatic',
    isCanonical: true,
    isNamespaceLocal: false,
    ...fields,
  }
}

export function aPolicy(name: string, fields: Partial<Authorization> = {}): Authorization {
  return { name, namespace: 'shop', scope: 'namespace', action: 'allow', rules: [], isDryRun: false, ...fields }
}

export interface TestCertificate {
  readonly cert: string
  readonly key: string
}

/** A self-signed certificate for `name` and 127.0.0.1. */
export function makeCertificate(name = 'localhost'): TestCertificate {
  const folder = mkdtempSync(join(tmpdir(), 'sidestep-xds-cert-'))
  try {
    const [keyFile, certFile] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    execFileSync('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-keyout', keyFile, '-out', certFile,
      '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name},IP:127.0.0.1`,
    ], { stdio: 'ignore' })
    return { cert: readFileSync(certFile, 'utf8'), key: readFileSync(keyFile, 'utf8') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Binds a grpc server on loopback; a port given is taken again, as a control plane that restarts does. */
export async function listen(server: Server, { cert, key }: TestCertificate, port = 0): Promise<number> {
  const tls = ServerCredentials.createSsl(null, [{ cert_chain: Buffer.from(cert), private_key: Buffer.from(key) }])
  return await new Promise((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, tls, (error, bound) => (error ? reject(error) : resolve(bound)))
  })
}

export interface TestControlPlane {
  readonly store: XdsStore
  readonly xds: XdsServer
  readonly port: number
  stop(): void
}

export async function startControlPlane(
  certificate: TestCertificate,
  options: Partial<XdsServerOptions> & { readonly store?: XdsStore; readonly port?: number } = {},
): Promise<TestControlPlane> {
  const { store = new XdsStore(), port: wanted, ...rest } = options
  const server = new Server(grpcServerOptions)
  const xds = new XdsServer(store, {
    authenticate: async ({ metadata }) => metadata.get('authorization') === 'Bearer good'
      ? { ok: true, identity: 'agent' }
      : { ok: false, code: 'unauthenticated', because: 'no such token' },
    logger: silentLogger,
    debounceMs: 10,
    ...rest,
  })
  xds.register(server)
  const port = await listen(server, certificate, wanted)
  const stop = (): void => {
    xds.close()
    server.forceShutdown()
  }
  return { store, xds, port, stop }
}

/** A client whose knowledge and callbacks can be looked at. */
export class WatchedClient {
  readonly client: XdsClient
  readonly deltas: XdsDelta[] = []
  readonly responses: { readonly type: string; readonly rejected: number }[] = []
  readonly states: string[] = []
  readonly known = new Map<string, unknown>()

  constructor(port: number, certificate: TestCertificate, options: Partial<XdsClientOptions> = {}) {
    const { onDelta } = options
    this.client = new XdsClient({
      address: `127.0.0.1:${port}`,
      serverName: 'localhost',
      roots: async () => certificate.cert,
      token: async () => 'good',
      clusterId: 'Kubernetes',
      node: { id: 'ztunnel~10.9.9.9~ztunnel-a.sidestep~sidestep.svc.cluster.local', metadata: { NODE_NAME: 'n1' } },
      logger: silentLogger,
      backoff: { firstMs: 5, maxMs: 50 },
      onResponse: (response) => this.responses.push(response),
      onState: (state) => this.states.push(state.t),
      ...options,
      onDelta: async (delta) => {
        await onDelta?.(delta)
        this.#take(delta)
      },
    })
  }

  #take(delta: XdsDelta): void {
    this.deltas.push(delta)
    for (const name of [...delta.removedAddresses, ...delta.removedPolicies]) this.known.delete(name)
    for (const name of delta.removedWaypoint) this.known.delete(name.split('/').slice(2).join('/'))
    for (const each of delta.waypoint) this.known.set(`${each.kind}/${each.key}`, each)
    for (const each of delta.workloads) this.known.set(each.uid, each)
    for (const each of delta.services) this.known.set(`${each.namespace}/${each.hostname}`, each)
    for (const each of delta.policies) this.known.set(`${each.namespace}/${each.name}`, each)
  }

  get names(): string[] {
    return [...this.known.keys()].sort()
  }
}

export type RawRequest = Exclude<MessageInitShape<typeof DeltaDiscoveryRequestSchema>, { readonly $typeName: string }>

/** A stream that says what it is told to, and answers nothing of itself. */
export class RawStream {
  readonly got: { readonly typeUrl: string; readonly nonce: string; readonly names: readonly string[]; readonly removed: readonly string[] }[] = []
  readonly send: (request: RawRequest) => void
  readonly close: () => void
  isOver = false

  constructor(port: number, certificate: TestCertificate, token: string, id = 'raw') {
    const client = new Client(`127.0.0.1:${port}`, credentials.createSsl(Buffer.from(certificate.cert)), { 'grpc.ssl_target_name_override': 'localhost', 'grpc.use_local_subchannel_pool': 1 })
    this.close = () => client.close()
    const metadata = new Metadata()
    metadata.set('authorization', `Bearer ${token}`)
    const encode = (request: RawRequest): Buffer => Buffer.from(toBinary(DeltaDiscoveryRequestSchema, create(DeltaDiscoveryRequestSchema, request)))
    const call = client.makeBidiStreamRequest<RawRequest, Buffer>(deltaMethod, encode, (bytes: Buffer) => bytes, metadata)
    call.on('error', () => { this.isOver = true })
    call.on('data', (bytes: Buffer) => {
      const { typeUrl, nonce, removed, frames } = parseResponse(bytes)
      this.got.push({ typeUrl, nonce, removed, names: frames.map((frame) => decodeFrame(frame).name) })
    })
    this.send = (request) => void call.write({ node: { id }, ...request })
  }

  answer(): void {
    const last = this.got.at(-1)
    if (last) this.send({ typeUrl: last.typeUrl, responseNonce: last.nonce })
  }

  get names(): string[] {
    return this.got.flatMap(({ names }) => names)
  }
}

/** Waits for a condition that is about to hold. */
export async function until(condition: () => boolean, what: string, timeoutMs = 5_000): Promise<void> {
  const end = performance.now() + timeoutMs
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise((resolve) => { setTimeout(resolve, 2) })
  }
}
