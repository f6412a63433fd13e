// What the control plane stands on: a directory of YAML with the local mesh's socket for pods, or Kubernetes. Builds the parts that
// differ between the two, so that controlplane.ts wires both alike.
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import { trustFiles, type CaKeeper, type TrustSink } from '../controlplane/ca-keeper.ts'
import { callerCheck, type CallerCheck } from '../controlplane/callers.ts'
import { listOf, readsIstioLabels, type Config } from '../controlplane/config.ts'
import type { ConfigSource } from '../controlplane/config-source.ts'
import type { ControlPlane } from '../controlplane/control-plane.ts'
import { Controllers } from '../controlplane/controllers/controllers.ts'
import { ObservedObjects } from '../controlplane/controllers/observed-objects.ts'
import { DirectorySource } from '../controlplane/directory-source.ts'
import type { GatewayPodListener } from '../controlplane/gateway-pods.ts'
import { CaSecret, watchCaSecret } from '../controlplane/kube/ca-secret.ts'
import { kubeCallerCheck } from '../controlplane/kube/callers.ts'
import { GatewayNamespaces } from '../controlplane/kube/gateway-namespaces.ts'
import { KubePods } from '../controlplane/kube/pods.ts'
import { KubeSource } from '../controlplane/kube/source.ts'
import { TrustConfigMaps } from '../controlplane/kube/trust.ts'
import type { PodSource } from '../controlplane/pod-source.ts'
import { PodTokens } from '../controlplane/pod-tokens.ts'
import { SocketPods } from '../controlplane/socket-pods.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { KubeClient } from '../kube/client.ts'
import { EventRecorder } from '../kube/event-recorder.ts'
import { Lease } from '../kube/lease.ts'
import { parseReplicas } from '../model/gateway-objects.ts'
import { TokenReviewer } from '../kube/token-review.ts'
import { controlPlaneName } from '../model/kubernetes-names.ts'
import type { RuntimeFacts } from '../model/running-pod.ts'
import type { Authority } from '../pki/authority.ts'
import type { AuthorityStore } from '../pki/authority-store.ts'
import { keepTokenFile, TokenIssuer, type TokenFile } from '../pki/tokens.ts'

export interface Sources {
  readonly config: ConfigSource
  readonly pods: PodSource & { readonly facts: RuntimeFacts; readonly isConnected: boolean }
  /** Where the CA is kept. */
  readonly authority: string | AuthorityStore
  readonly check: CallerCheck
  readonly trust: TrustSink
  /** Hears of gateways' pods. */
  readonly gatewayPods: GatewayPodListener
  /** Whether we do what only one replica may do. */
  leads(): boolean
  /** Something was translated and published. */
  published(): void
  /** There is an authority, and who keeps what depends on it: from now on the sources tell them what others do to it. */
  keep(authority: Authority, keeper: CaKeeper): void
  /** We serve: now we may lead. */
  serve(plane: ControlPlane): void
  /** Gives up what we lead, and what nobody who is served needs. */
  release(): Promise<void>
  close(): void
}

/** `environment` as the process has it: credentials for Kubernetes are found by it. */
export async function sourcesOf(config: Config, environment: Readonly<Record<string, string | undefined>>, logger: Logger): Promise<Sources> {
  return config.source === 'kubernetes' ? kubernetesSources(config, environment, logger) : directorySources(config, logger)
}

async function directorySources(config: Config, logger: Logger): Promise<Sources> {
  const set = (text: string): string | undefined => (text === '' ? undefined : text)
  mkdirSync(dirname(config.tokenKeyFile), { recursive: true, mode: 0o700 })
  const tokens = await TokenIssuer.open(config.tokenKeyFile)
  const podTokens = config.tokenDirectory === '' ? undefined : new PodTokens({
    directory: join(config.tokenDirectory, 'pods'),
    issue: (holder) => tokens.issue(holder, config.tokenAudience, config.tokenTtlSeconds),
    logger: logger.child({ component: 'tokens' }),
  })
  const tokenFiles = await keepTokens(config, tokens, logger)
  const pods = new SocketPods({ path: config.podsSocket, logger: logger.child({ component: 'pods' }) })
  return {
    config: new DirectorySource(set(config.configDirectory), set(config.appliedDirectory)),
    pods,
    authority: config.caDirectory,
    check: callerCheck(tokens, config.tokenAudience, config.clusterId),
    trust: trustFiles(set(config.rootsFile), set(config.crlFile)),
    gatewayPods: {
      appeared: (pod) => podTokens?.appeared(pod),
      gone: (pod) => podTokens?.gone(pod),
      synced: () => podTokens?.synced(),
    },
    leads: () => true,
    published: () => undefined,
    keep: () => undefined,
    serve: () => undefined,
    release: async () => {
      await Promise.all([podTokens, ...tokenFiles].map((kept) => kept?.stop()))
    },
    close: () => undefined,
  }
}

/** A file for each node that the settings name, renewed for as long as we run. */
async function keepTokens(config: Config, tokens: TokenIssuer, logger: Logger): Promise<TokenFile[]> {
  if (config.tokenDirectory === '') return []
  mkdirSync(config.tokenDirectory, { recursive: true, mode: 0o700 })
  return Promise.all(listOf(config.nodes).map((node) => keepTokenFile({
    path: `${config.tokenDirectory}/${node}.token`,
    issue: () => tokens.issue({ node, subject: 'ztunnel' }, config.tokenAudience, config.tokenTtlSeconds),
    logger,
  })))
}

async function kubernetesSources(config: Config, environment: Readonly<Record<string, string | undefined>>, logger: Logger): Promise<Sources> {
  const { podNamespace: namespace } = config
  const instance = config.podName === '' ? hostname() : config.podName
  const api = await KubeClient.load({ environment })
  logger.info({ 'kube.server': api.server, from: api.origin }, 'kubernetes api')
  const log = (component: string): Logger => logger.child({ component })
  const pods = new KubePods({ api, logger: log('pods') })
  const observed = new ObservedObjects()
  const source = new KubeSource({ api, logger: log('source'), observed })
  const namespaces = new GatewayNamespaces()
  const trust = new TrustConfigMaps({ api, namespace, gatewayNamespaces: () => namespaces.get(), logger: log('trust') })
  const secret = new CaSecret({ api, namespace, logger: log('ca') })
  const reviewer = new TokenReviewer({ api, audience: config.tokenAudience })
  let controllers: Controllers | undefined
  let keeper: CaKeeper | undefined
  let stopWatching = (): void => undefined
  const lease = new Lease({
    api, log: log('lease'), namespace, name: controlPlaneName, holder: `${instance}-${randomBytes(4).toString('hex')}`,
    onLeading: () => {
      trust.start()
      controllers?.start()
      keeper?.lead().catch((error: unknown) => logger.error({ because: describeError(error) }, 'the new leader cannot keep the certificate authority yet, trying again'))
    },
    onLost: async () => {
      await Promise.all([trust.stop(), controllers?.stop()])
    },
  })
  return {
    config: {
      start: (onChanges) => source.start((changes) => {
        onChanges(changes)
        if (namespaces.apply(changes)) trust.changed()
      }),
      want: (keys) => source.want(keys),
      problems: () => source.problems(),
      notes: () => source.notes(),
      close: () => source.close(),
    },
    pods,
    authority: secret,
    check: kubeCallerCheck({ reviewer, namespace, clusterId: config.clusterId, pods: () => pods.facts.pods, logger: log('callers') }),
    trust,
    gatewayPods: { appeared: () => undefined, gone: () => undefined, synced: () => undefined },
    leads: () => lease.isLeading,
    published: () => controllers?.changed(),
    keep: (authority, kept) => {
      keeper = kept
      stopWatching = watchCaSecret(secret, api, namespace, log('ca'), async () => {
        await authority.reload()
        await kept.changed()
      })
    },
    serve: (plane) => {
      controllers = new Controllers({
        api, observed, view: () => plane.view(), pods: () => pods.facts.pods.values(),
        events: new EventRecorder({ api, log: log('events'), controller: 'sidestep.dev/controlplane', instance }),
        gateways: {
          image: config.proxyImage, imagePullSecrets: listOf(config.proxyImagePullSecrets),
          ...(config.proxyImagePullPolicy === '' ? {} : { imagePullPolicy: config.proxyImagePullPolicy }),
          // The setting has been read before.
          replicas: parseReplicas(config.gatewayReplicas) ?? { min: 1, max: 1 },
          systemNamespace: namespace, controlPlanePort: 15_012,
          clusterId: config.clusterId, clusterDomain: config.clusterDomain, network: config.network,
          trustDomain: config.trustDomain, trustDomainAliases: config.trustDomainAliases,
        },
        istioLabels: readsIstioLabels(config), logger: log('controllers'),
      })
      lease.start()
    },
    release: async () => {
      stopWatching()
      await lease.close()
    },
    close: () => api.close(),
  }
}
