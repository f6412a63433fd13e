// `npm run conformance`: Gateway API's own conformance suite against a real cluster with Sidestep installed as users install it, and the
// suite's reports. On a test cluster of its own, which is removed afterwards; or on the user's, as test/kube/given-cluster.ts has it,
// whose nodes must be able to get the suite's images as well.
//
//   npm run conformance -- [mesh|gateway]... [--test NAME] [--cluster N] [--keep] [--installed] [--reports DIRECTORY]
//
// With --cluster it uses the test cluster of that number and keeps it; with --installed it installs nothing.
import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { checkout } from '../../deploy/image/contents.ts'
import { mustRun } from '../../src/local/command.ts'
import { version } from '../../src/install/values.ts'
import { meshLabel } from '../../src/model/enrolment.ts'
import { useWaypointLabel } from '../../src/model/gateway-labels.ts'
import { binaries } from '../kube/binaries.ts'
import { Cluster } from '../kube/cluster.ts'
import { givenCluster } from '../kube/given-cluster.ts'
import { productImage, productRepository, productTags } from '../kube/product-image.ts'
import { runs, type RunName } from './features.ts'
import { conformanceParts, type ConformanceParts } from './images.ts'

const node = join(checkout, 'node_modules/.bin/node')
const waypoint = 'waypoint'
const timeoutMs = 600_000
/** Each Gateway starts a proxy, on a machine that may have two processors. What conformance bounds, the time to consistency, is not here. */
const patience = [
  ...['GatewayStatusMustHaveListeners', 'GatewayListenersMustHaveConditions', 'GatewayMustHaveAddress', 'GatewayMustHaveCondition'].map((name) => `${name}:240`),
  ...['HTTPRouteMustHaveCondition', 'TLSRouteMustHaveCondition', 'RouteMustHaveParents', 'DeleteTimeout', 'GetTimeout'].map((name) => `${name}:120`),
  'NamespacesMustBeReady:600',
].join(';')
const say = (line: string): void => console.error(line)

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    test: { type: 'string' }, cluster: { type: 'string' }, keep: { type: 'boolean', default: false }, installed: { type: 'boolean', default: false },
    reports: { type: 'string', default: join(checkout, 'docs/conformance') },
  },
})

interface Stage {
  readonly kubeconfig: string
  readonly kubectl: string
  /** Of the product's image. */
  readonly repository: string
  /** Addresses for Services of type LoadBalancer; undefined where the cluster gives them itself. */
  readonly pool?: string
}

async function main(): Promise<number> {
  const names = (positionals.length === 0 ? Object.keys(runs) : positionals) as RunName[]
  const unknown = names.filter((name) => !Object.hasOwn(runs, name))
  if (unknown.length > 0) throw new Error(`there is no ${unknown.join(', ')}: ${Object.keys(runs).join(' or ')}`)
  const programs = await binaries(say)
  const parts = await conformanceParts(programs, say)
  const given = givenCluster()
  if (given) return runAll(names, parts, { kubeconfig: given.kubeconfig, kubectl: join(programs.kube, 'kubectl'), repository: `${given.images}/sidestep` })
  const images = values.installed ? parts.images : [...parts.images, await productImage(say)]
  const cluster = values.cluster === undefined
    ? await Cluster.up({ ...(values.keep ? {} : { keeper: process.pid }), images, say })
    : await openOrStart(Number(values.cluster), images)
  try {
    return await runAll(names, parts, { kubeconfig: cluster.kubeconfig, kubectl: cluster.kubectlPath, repository: productRepository, pool: loadBalancerPool(cluster) })
  } finally {
    if (!values.keep && values.cluster === undefined) await cluster.down()
  }
}

async function openOrStart(instance: number, images: readonly string[]): Promise<Cluster> {
  const running = await Cluster.open(instance).catch(() => undefined)
  if (!running) return Cluster.up({ instance, images, say })
  if (!values.installed) await running.load(images)
  return running
}

/** In the range of services, which is routed to a node; the API server gives such low addresses last. */
function loadBalancerPool({ layout }: Cluster): string {
  return layout.services.v4.replace(/\.0\/\d+$/, '.128/25')
}

async function runAll(names: readonly RunName[], parts: ConformanceParts, stage: Stage): Promise<number> {
  if (!values.installed) await install(parts, stage)
  let worst = 0
  for (const name of names) worst = Math.max(worst, runSuite(name, parts, stage))
  return worst
}

async function install(parts: ConformanceParts, { kubeconfig, kubectl, repository }: Stage): Promise<void> {
  say(`installing Gateway API ${parts.version} and Sidestep ${version}`)
  await mustRun([kubectl, '--kubeconfig', kubeconfig, 'apply', '--server-side', '-k', parts.crds], { timeoutMs })
  await mustRun([node, join(checkout, 'src/bin/sidestep.ts'), 'install', '--kubeconfig', kubeconfig, '--set', `image.repository=${repository}`, '--set', `image.tag=${productTags[0]}`], { timeoutMs })
}

function runSuite(name: RunName, { suite }: ConformanceParts, { kubeconfig, pool }: Stage): number {
  const { profiles, features } = runs[name]
  const reports = resolve(values.reports)
  mkdirSync(reports, { recursive: true })
  const flags: Record<string, string | undefined> = {
    'test.v': 'true',
    'test.timeout': '2h',
    'conformance-profiles': profiles.join(','),
    'supported-features': features.join(','),
    'gateway-class': 'sidestep-ingress',
    'disable-parallel-tests': 'true',
    'timeout-config-overrides': patience,
    'load-balancers': pool,
    'run-test': values.test,
    'organization': 'sidestep',
    'project': 'sidestep',
    'url': 'https://sidestep.dev',
    'contact': 'https://sidestep.dev',
    'version': version,
    ...(values.test === undefined ? { 'report-output': join(reports, `${name}.yaml`) } : {}),
    ...(name === 'mesh' ? { waypoint, 'namespace-labels': `${meshLabel}=enabled,${useWaypointLabel}=${waypoint}` } : {}),
  }
  const argv = Object.entries(flags).flatMap(([flag, value]) => (value === undefined ? [] : [`-${flag}=${value}`]))
  say(`running the profiles ${profiles.join(', ')}`)
  return spawnSync(suite, argv, { stdio: 'inherit', env: { ...process.env, KUBECONFIG: kubeconfig } }).status ?? 1
}

process.exitCode = await main()
