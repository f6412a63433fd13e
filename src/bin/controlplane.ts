#!/usr/bin/env node
// The control plane: reads its settings, builds the parts, wires them, serves until SIGTERM. Everything that nodes rely on (CA, keys
// of tokens) is on disk or in Kubernetes, so that it may be killed at any moment and started again.
import { isIP } from 'node:net'
import { Server } from '@grpc/grpc-js'
import { Command } from 'commander'
import { pino } from 'pino'
import { serveAdmin, serveMetrics } from '../controlplane/admin.ts'
import { CaKeeper, withinTtl } from '../controlplane/ca-keeper.ts'
import { admitToAuthority, admitToDiscovery, mayBeNode, signingRule } from '../controlplane/callers.ts'
import { configSchema, hostAndPort, listOf, readConfig, readsIstioLabels, variables, type Config } from '../controlplane/config.ts'
import { ControlPlane } from '../controlplane/control-plane.ts'
import { watchGatewayPods } from '../controlplane/gateway-pods.ts'
import { GrpcPort, type ServingCertificate } from '../controlplane/grpc-port.ts'
import { byNodeName, connectedNodes } from '../controlplane/report.ts'
import { ControlPlaneMetrics } from '../controlplane/telemetry/metrics.ts'
import { askSocket } from '../core/ask-socket.ts'
import { describeError } from '../core/errors.ts'
import { settingsHelp } from '../model/settings-table.ts'
import type { ControlPlaneReport } from '../model/control-plane-status.ts'
import { Authority } from '../pki/authority.ts'
import { registerCaService } from '../pki/ca-service.ts'
import { XdsServer } from '../xds/server.ts'
import { grpcServerOptions } from '../xds/server-options.ts'
import { XdsStore } from '../xds/store.ts'
import { sourcesOf } from './controlplane-sources.ts'

/** Who has no call open is asked to come again: an idle connection costs us, and a stranger could hold many. */
const connectionIdleMs = 60_000

async function run(config: Config): Promise<void> {
  const logger = pino({ level: config.logLevel, base: { process: 'controlplane' } })
  const metrics = new ControlPlaneMetrics()
  const sources = await sourcesOf(config, process.env, logger)
  const { pods, check } = sources
  const store = new XdsStore()
  const authority = await Authority.open({
    trustDomain: config.trustDomain,
    directory: sources.authority,
    ...(config.caCertificateFile !== '' && {
      own: { certificateFile: config.caCertificateFile, keyFile: config.caKeyFile, rootsFile: config.caRootsFile },
    }),
    maySign: signingRule((node, identity) => plane.mayHave(node, identity), () => pods.facts.pods),
    logger: logger.child({ component: 'ca' }),
  })
  const xds = new XdsServer(store, {
    authenticate: async ({ metadata, peer }) => admitToDiscovery(await check(metadata, peer), pods.facts.pods),
    admitNode: (caller, { metadata }) => mayBeNode(caller, metadata),
    logger: logger.child({ component: 'xds' }),
    onPush: (push) => metrics.pushed(push),
    onRefused: (because) => metrics.streamRefused(because),
  })
  const plane = new ControlPlane({
    config: sources.config,
    pods: watchGatewayPods(pods, {
      appeared: (pod) => sources.gatewayPods.appeared(pod),
      gone: (gone) => {
        sources.gatewayPods.gone(gone)
        xds.end(`${gone.pod.namespace}/${gone.pod.name}`, 'the pod is not what it was')
      },
      synced: () => sources.gatewayPods.synced(),
    }),
    store,
    settings: {
      clusterId: config.clusterId, network: config.network, clusterDomain: config.clusterDomain,
      trustDomain: config.trustDomain, trustDomainAliases: listOf(config.trustDomainAliases),
      istioLabels: readsIstioLabels(config),
      readsParameters: config.source === 'kubernetes',
    },
    // The local mesh captures by our own labels alone.
    enrolsByIstioLabels: config.source === 'kubernetes' && readsIstioLabels(config),
    nodes: () => byNodeName(xds.nodes()),
    ...(config.statusFile !== '' && { statusFile: config.statusFile }),
    logger,
    onPublished: (_delta, translateMs) => {
      metrics.translated(translateMs)
      sources.published()
    },
  })

  const names = listOf(config.serverNames)
  const keeper = new CaKeeper({
    authority,
    names: { dns: names.filter((name) => isIP(name) === 0), ips: names.filter((name) => isIP(name) !== 0) },
    servingTtlMs: config.servingTtlSeconds * 1000,
    trust: sources.trust,
    leads: () => sources.leads(),
    logger: logger.child({ component: 'ca' }),
  })
  const serving: { certificate: ServingCertificate; port: GrpcPort | undefined } = { certificate: await keeper.start(), port: undefined }
  keeper.onServing((next) => {
    serving.certificate = next
    serving.port?.setCertificate(next)
  })
  sources.keep(authority, keeper)

  const isReady = (): boolean => serving.port !== undefined
  const report = (): ControlPlaneReport => ({
    ...plane.status(), ready: isReady(), pid: process.pid, podsConnected: pods.isConnected, nodes: connectedNodes(xds.nodes()), ca: keeper.status(),
  })
  watchGauges(metrics, report, () => serving.port?.connections ?? 0, () => sources.leads())
  const admin = await serveAdmin(config.adminSocket, {
    status: report,
    isReady,
    revoke: (serial) => keeper.revoke(serial),
    rotate: ({ step, overlapSeconds }) => (step === 'begin'
      ? keeper.beginRotation(overlapSeconds === undefined ? undefined : overlapSeconds * 1000)
      : keeper.continueRotation()),
  }, logger.child({ component: 'admin' }))
  const { host: metricsHost, port: metricsPort } = hostAndPort(config.metricsAddress)
  const metricsServer = config.metricsAddress === 'none' ? undefined : await serveMetrics(metricsHost, metricsPort, metrics.registry, isReady)

  const stop = async (signal: string): Promise<void> => {
    logger.info({ signal }, 'control plane is ending')
    // Whoever leads next need not wait, and who is served here goes to others.
    await sources.release()
    keeper.close()
    xds.close()
    await serving.port?.close()
    await plane.close()
    sources.close()
    for (const server of [admin, metricsServer]) server?.close()
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => void stop(signal))

  // Nodes are let in when there is everything to tell them: half of it would look like a mesh in which the rest is gone.
  await plane.start()
  const server = new Server({ ...grpcServerOptions, 'grpc.max_connection_idle_ms': connectionIdleMs })
  xds.register(server)
  registerCaService(server, {
    authority: withinTtl(authority, config.certificateTtlSeconds, config.certificateMaxTtlSeconds),
    authenticate: async ({ metadata, peer }) => admitToAuthority(await check(metadata, peer), config.trustDomain),
    logger: logger.child({ component: 'ca' }),
    onOutcome: (outcome) => metrics.certificate(outcome),
  })
  serving.port = await GrpcPort.listen({
    ...hostAndPort(config.listenAddress), server, certificate: serving.certificate, maxConnections: config.maxConnections,
    maxConnectionsPerAddress: config.maxConnectionsPerAddress,
    onHandshakeError: () => metrics.handshakeError(),
  })
  sources.serve(plane)
  logger.info({ port: serving.port.port, trustDomain: config.trustDomain }, 'control plane started')
}

function watchGauges(metrics: ControlPlaneMetrics, report: () => ControlPlaneReport, connections: () => number, leads: () => boolean): void {
  // All numbers of one scrape come from one look.
  let seen: { readonly atMs: number; readonly report: ControlPlaneReport } | undefined
  const recent = (): ControlPlaneReport => {
    const now = performance.now()
    if (!seen || now - seen.atMs > 500) seen = { atMs: now, report: report() }
    return seen.report
  }
  const connected = (): ControlPlaneReport['nodes'] => recent().nodes.filter((node) => node.connected)
  const seconds = (iso: string): number => Date.parse(iso) / 1000
  metrics.watch({
    connections,
    nodes: () => connected().filter(({ gateway }) => gateway === undefined).length,
    gatewayPods: () => connected().filter(({ gateway }) => gateway !== undefined).length,
    behind: () => connected().filter((node) => !node.current).length,
    nacked: () => connected().reduce((sum, node) => sum + node.nacks.length, 0),
    nackedResponses: () => recent().nodes.reduce((sum, node) => sum + node.nacked, 0),
    workloads: () => recent().workloads,
    services: () => recent().services,
    policies: () => recent().policies,
    objectsRefused: () => recent().objects.filter((object) => !object.accepted).length,
    podsConnected: () => (recent().podsConnected ? 1 : 0),
    leads: () => (leads() ? 1 : 0),
    caExpirySeconds: () => seconds(recent().ca.expires),
    servingExpirySeconds: () => seconds(recent().ca.servingExpires),
    roots: () => recent().ca.roots,
  })
}

/** The one that runs beside us, by the same settings. */
function ask(path: string, body?: unknown): Promise<unknown> {
  const { adminSocket } = readConfig(process.env)
  return askSocket(adminSocket, path, { who: 'control plane', code: 'CONTROL_PLANE_UNAVAILABLE', timeoutMs: 30_000, ...(body === undefined ? {} : { body }) })
}

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`)
}

const program = new Command('controlplane')
  .description('tells nodes what is in the mesh, and signs certificates for what runs on them')
  .addHelpText('after', () => `\nSettings, by environment variable:\n${settingsHelp(configSchema, variables)}`)
program
  .command('run', { isDefault: true })
  .description('serve until SIGTERM')
  .action(() => run(readConfig(process.env)))
program
  .command('status')
  .description('what the one that runs here says of itself, as JSON')
  .action(async () => print(await ask('/status')))
program
  .command('rotate')
  .description('announce a new root; everything else goes by itself')
  .option('--overlap <seconds>', 'announce it for so long, rather than until every certificate of today was renewed', Number)
  .action(async ({ overlap }: { overlap?: number }) => {
    await ask('/rotate', { step: 'begin', ...(overlap === undefined ? {} : { overlapSeconds: overlap }) })
  })
program
  .command('revoke <serial>')
  .description('make a certificate worthless, by its serial number in hex')
  .action(async (serial: string) => {
    await ask('/revoke', { serial })
  })

try {
  await program.parseAsync()
} catch (error) {
  process.stderr.write(`controlplane: ${describeError(error)}\n`)
  process.exitCode = 1
  // What was started before the mistake was found must not keep the process.
  setImmediate(() => process.exit())
}
