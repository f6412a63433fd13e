// What the demo says: what is up, captured and encrypted, where things are, what to try, and who talks to whom. Text only.
import { relative } from 'node:path'
import type { LocalStatus } from '../model/local-status.ts'
import { localStateRoot } from '../model/local-status.ts'
import type { CertificateView, PolicyView } from '../model/ztunnel-views.ts'
import { durationText, show } from './output.ts'
import { ratesBetween, trafficHead, trafficRows } from './traffic.ts'
import { requestHead, requestRates, requestRows } from './requests.ts'
import type { RequestSample } from './requests.ts'
import type { Series, TrafficSample } from './traffic.ts'

/** What the ztunnels say of themselves: node to its facts. */
export interface ZtunnelFacts {
  readonly pid: number
  readonly certificates: readonly CertificateView[]
  readonly policies: readonly PolicyView[]
  readonly metrics: readonly Series[]
}

export function summary(status: LocalStatus, ztunnels: ReadonlyMap<string, ZtunnelFacts>, directory: string): string {
  const { name, nodes, pods, services, controlPlane } = status
  const captured = pods.filter((pod) => pod.captured === 'yes').map(podText)
  const others = pods.filter((pod) => pod.captured !== 'yes').map(podText)
  const pids = [...ztunnels].map(([node, { pid }]) => `ztunnel of ${node} (pid ${pid})`)
  const certificates = [...ztunnels.values()].flatMap((facts) => facts.certificates).filter(({ state }) => state === 'ready')
  const identities = [...new Set(certificates.map(({ identity }) => identity))]
  const soonest = certificates.map(({ notAfter }) => Date.parse(notAfter)).reduce((least, each) => Math.min(least, each), Infinity)
  const policies = [...new Set([...ztunnels.values()].flatMap((facts) => facts.policies).map(({ action, namespace, name: policy }) => `${action.toUpperCase()} ${namespace}/${policy}`))]
  const root = `${localStateRoot}/${name}`
  return rows([
    ['up', `${nodes.length} nodes, ${pods.length} pods, ${services.length} services; control plane (pid ${controlPlane.pid ?? 'none'}), ${pids.join(', ')}`],
    ['captured', `${captured.join(', ')}; not: ${others.join(', ') || 'none'}`],
    ['identities', `${identities.map((each) => each.replace(/^.*\/ns\/(.*)\/sa\/(.*)$/, '$1/$2')).join(', ')}: certificates ready, first expires in ${durationText(soonest - Date.now())}`],
    ['encrypted', tunnelsText([...ztunnels].map(([, { metrics }]) => metrics))],
    ['policies', `${policies.join(', ') || 'none'}; from policies.yaml`],
    ['waypoint', waypointText(status)],
    ['browser', status.published.map(({ url, gateway, because }) => `${url} leads to ${gateway}${because === '' ? '' : ` (not yet: ${because})`}`).join(', ') || 'no ingress is published'],
    ['config', `${shown(directory)}/*.yaml: change a file and the mesh follows; what became of it: ${command(name, 'status')}`],
    ['logs', `${root}/logs/: ztunnel-NODE.log has a line for each connection; an application's: ${command(name, 'logs', 'shop/scraper')}`],
    ['metrics', `curl --unix-socket ${root}/node-a-ztunnel.sock http://ztunnel/metrics   (Prometheus: port 15020 of each node)`],
    ['look', ['connections', 'workloads', 'services', 'policies', 'certs', 'authz explain shop/scraper payments.shop --port 80', 'waypoint status -n shop'].map((each) => command(name, each)).join('\n')],
  ])
}

function waypointText({ gateways }: LocalStatus): string {
  const waypoints = gateways.filter(({ role }) => role === 'waypoint')
  return waypoints.map(({ namespace, name, ready, replicas, usedBy }) => `${namespace}/${name} (${ready} of ${replicas} ready) looks into requests of ${usedBy.join(', ')}; what it does with them: waypoint.yaml`).join(', ') || 'none'
}

function podText({ namespace, name, node }: LocalStatus['pods'][number]): string {
  return `${namespace}/${name.replace(/(-[a-z0-9]+){2}$/, '')} (${node})`
}

/** Tunnels between pods, and what they carry, over all nodes. */
export function tunnelsText(metrics: readonly (readonly Series[])[]): string {
  const sum = (name: string, labels: Readonly<Record<string, string>>): number => metrics.flat()
    .filter((each) => each.name === name && Object.entries(labels).every(([key, value]) => each.labels.get(key) === value))
    .reduce((total, { value }) => total + value, 0)
  const carried = sum('sidestep_hbone_streams_total', { side: 'client' })
  const handshakes = sum('sidestep_hbone_handshakes_total', { side: 'client' })
  return `${sum('sidestep_pool_connections', { state: 'ready' })} tunnels stand (TLS 1.3, both sides prove who they are); ${carried} connections went through ${handshakes} handshakes`
}

export function thingsToTry(name: string, directory: string, examples: string): string {
  const shop = shown(directory)
  return `Four things to try, in another terminal:
  1. put namespace legacy into the mesh, and out again: its plain text becomes mTLS while it runs
       sed -i 's|labels: {}|labels: {sidestep.dev/mesh: enabled}|' ${shop}/legacy.yaml
       sed -i 's|labels: {sidestep.dev/mesh: enabled}|labels: {}|' ${shop}/legacy.yaml
  2. apply a policy, and take it back: the stock takes no plain text any more, so legacy is refused
       cp ${shown(examples)}/try/strict-stock.yaml ${shop}/
       rm ${shop}/strict-stock.yaml
  3. send half of the catalogue's requests to its new version, and back
       sed -i '/catalogue-v1/s|weight: 90|weight: 50|; /catalogue-v2/s|weight: 10|weight: 50|' ${shop}/waypoint.yaml
       sed -i '/catalogue-v1/s|weight: 50|weight: 90|; /catalogue-v2/s|weight: 50|weight: 10|' ${shop}/waypoint.yaml
  4. replace a ztunnel while the shop runs: nothing fails; then kill one: its pods' connections are refused until it is back
       ${command(name, 'replace-ztunnel', 'node-a')}
       kill -9 $(curl -s --unix-socket ${localStateRoot}/${name}/node-a-ztunnel.sock http://ztunnel/state | sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')

Ctrl-C ends it and leaves nothing behind.`
}

/** What passed the waypoint and the ingress between two looks. */
export function requestsView(before: RequestSample, now: RequestSample): string {
  const rates = requestRates(before, now)
  return `requests through ${[...now.proxies.keys()].map((pod) => pod.replace(/(-[a-z0-9]+){2}$/, '')).join(' and ') || 'nobody'}, ${rates.retries.toFixed(1)} of them a second tried again\n${show('table', undefined, requestHead, requestRows(rates), 'none')}`
}

export interface LiveFacts {
  readonly captured: number
  readonly pods: number
  readonly silent: readonly string[]
  readonly tunnels: string
}

/** What passed between two looks; `silent` are nodes whose ztunnel did not answer. */
export function liveView(before: TrafficSample, now: TrafficSample, { captured, pods, silent, tunnels }: LiveFacts): string {
  const traffic = show('table', undefined, trafficHead, trafficRows(ratesBetween(before, now)), 'no traffic')
  const away = silent.length === 0 ? '' : `; no answer from the ztunnel of ${silent.join(' and ')}`
  return `${new Date().toTimeString().slice(0, 8)}  ${captured} of ${pods} pods captured; ${tunnels}${away}\n${traffic}`
}

function command(mesh: string, verb: string, ...rest: readonly string[]): string {
  const [first = '', ...others] = [...verb.split(' '), ...rest]
  return ['npm run sidestep --', first, ...others, '--name', mesh].join(' ')
}

/** As one would write it here. */
function shown(path: string): string {
  const short = relative(process.cwd(), path)
  return short === '' || short.startsWith('..') ? path : short
}

function rows(facts: readonly (readonly [string, string])[]): string {
  return facts.map(([name, text]) => `  ${name.padEnd(11)}${text.replaceAll('\n', `\n${' '.repeat(13)}`)}`).join('\n')
}
