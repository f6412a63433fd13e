// The questions that `sidestep demo --check` asks of the running shop: each claim that the demo makes, tried by real traffic.
// What they change (processes, a label) they change as a user would, and put back.
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { describeError } from '../core/errors.ts'
import { certificateViewSchema, explainAnswerSchema, workloadViewSchema } from '../model/ztunnel-views.ts'
import type { ExplainAnswer } from '../model/ztunnel-views.ts'
import { claimTimeoutMs, dwellMs, hold, newMarker, noneFailed, NotSo, seconds, until, type Claim } from './demo-claims.ts'
import { requestClaims } from './demo-requests.ts'
import type { Shop } from './demo-shop.ts'
import { table } from './status.ts'

const allTimeoutMs = 110_000
/** Of the stock, which takes plain text and has no waypoint before it. */
const serviceIp = '10.96.0.20'

const claims: readonly Claim[] = [
  { claim: 'every pod of namespace shop is captured, its gateways and all others are not', see: captured },
  { claim: 'every pod of the mesh proves its own identity, on both sides', see: identities },
  { claim: 'between nodes: TLS 1.3 on 15008, and no marker in the payload', see: encrypted },
  { claim: 'names of services are answered inside the mesh', see: names },
  { claim: 'the stock, without a waypoint, sees the address of who asks', see: addresses },
  { claim: 'policy lets the frontend pay, refuses the scraper, and says which rule', see: policy },
  { claim: 'plain text: the stock serves it, payments behind the waypoint do not', see: plainText },
  { claim: 'an application cannot dial its ztunnel', see: ownPorts },
  { claim: 'control plane killed with -9: traffic and new connections go on', see: controlPlaneKilled },
  { claim: 'label in, label out: wire changes to mTLS and back, no request fails', see: label },
  { claim: 'policy file in, policy file out: followed while connections run', see: applied },
  { claim: 'both ztunnels replaced: no request fails', see: replaced },
  ...requestClaims,
  { claim: 'ztunnel killed with -9: refused meanwhile (closed mode), then back', see: ztunnelKilled },
]

async function captured(shop: Shop): Promise<string> {
  const { pods } = await shop.client.status()
  const proxies = await shop.gatewayPods()
  const wrong = pods.filter((pod) => (pod.namespace === 'shop' && !proxies.has(pod.name)) !== (pod.captured === 'yes'))
  hold(wrong.length === 0, wrong.map((pod) => `${pod.namespace}/${pod.name} captured: ${pod.captured}`).join(', '))
  return `${pods.filter((pod) => pod.captured === 'yes').length} of ${pods.length} pods`
}

async function identities(shop: Shop): Promise<string> {
  const nodes = await shop.nodes()
  // A pod that connects to nobody is up before its certificate is.
  await until('each identity has its certificate', async () => (await Promise.all(nodes.map((node) => isCertified(shop, node)))).every(Boolean))
  const proven = new Set<string>()
  for (const { name, labels } of (await Promise.all(nodes.map((node) => shop.metrics(node)))).flat()) {
    // Only what a certificate proved is a principal here, and the side that is connected to relies on nothing else.
    if (name !== 'istio_tcp_connections_opened_total' || labels.get('reporter') !== 'destination' || labels.get('connection_security_policy') !== 'mutual_tls') continue
    proven.add(`${labels.get('source_principal')} > ${labels.get('destination_principal')}`)
  }
  const trust = 'spiffe://cluster.local/ns/shop/sa/'
  for (const to of ['catalogue', 'payments', 'stock']) hold(proven.has(`${trust}frontend > ${trust}${to}`), `nobody proved ${trust}frontend > ${trust}${to}; seen: ${[...proven].join(', ')}`)
  return `${trust}: ${[...proven].toSorted().join(', ').replaceAll(trust, '')}`
}

/** Whether the node has a good certificate for each identity of the shop that runs there. */
async function isCertified(shop: Shop, node: string): Promise<boolean> {
  const certificates = await shop.askZtunnel(node, z.array(certificateViewSchema), '/certificates')
  const workloads = await shop.askZtunnel(node, z.array(workloadViewSchema), '/workloads')
  // A gateway fetches its own.
  const proxies = await shop.gatewayPods()
  const here = workloads.filter((each) => each.namespace === 'shop' && each.node === node && !proxies.has(each.name))
  return here.length > 0 && here.every(({ identity }) => certificates.some((each) => each.identity === identity && each.state === 'ready'))
}

async function encrypted(shop: Shop): Promise<string> {
  const watch = await shop.tools.watchWire(shop.name)
  try {
    const [hidden, open] = [newMarker(), newMarker()]
    const { pods } = await shop.client.status()
    const captive = new Set(pods.filter(({ namespace }) => namespace === 'shop').flatMap(({ ips }) => ips))
    const far = await shop.pod('shop', 'stock')
    const [scraper] = (await shop.pod('shop', 'scraper')).ips
    const url = (marker: string): string => `http://${far.ips[0]}:8080/${marker}`
    // The scraper has not talked to the stock yet, so its tunnel is seen from the first byte.
    for (const name of ['scraper', 'frontend']) await shop.askStock('shop', name, url(hidden))
    await shop.askStock('legacy', 'reporter', url(open))
    const view = await watch.look()
    hold(view.contains(open), 'the capture did not even see plain text')
    hold(!view.contains(hidden), `the marker ${hidden} was on the wire`)
    const inMesh = view.flows.filter(({ source, destination }) => captive.has(source.ip) && captive.has(destination.ip))
    const bad = inMesh.filter(({ protocol, source, destination, speaks }) =>
      protocol !== 'tcp' || ![source.port, destination.port].includes(15_008) || speaks === 'plain' || speaks === 'TLS records')
    hold(bad.length === 0, `not in a tunnel: ${bad.slice(0, 3).map(({ protocol, source, destination, speaks }) => `${protocol} ${source.ip}:${source.port} > ${destination.ip}:${destination.port} ${speaks}`).join(', ')}`)
    const handshakes = inMesh.filter(({ speaks }) => speaks === 'TLS 1.3')
    hold(handshakes.some(({ source, destination }) => source.ip === scraper && far.ips.includes(destination.ip)), 'no TLS 1.3 handshake was seen where one had to be')
    return `${view.packets} packets, ${inMesh.length} flows in tunnels, ${handshakes.length} from their first byte; plain text only from legacy`
  } finally {
    await watch.stop()
  }
}

async function names(shop: Shop): Promise<string> {
  const { text } = await shop.run('shop', 'frontend', ['getent', 'ahostsv4', 'stock'])
  hold(text.startsWith(`${serviceIp} `), `stock is ${text.trim() || 'not found'}`)
  return text.split('\n')[0]?.replace(/\s+/g, ' ') ?? ''
}

async function addresses(shop: Shop): Promise<string> {
  const { ips } = await shop.pod('shop', 'frontend')
  const { pod, client } = await shop.askStock('shop', 'frontend', 'http://stock.shop/', '--ipv4')
  hold(client === `::ffff:${ips[0]}`, `${pod} saw ${client}, not ${ips[0]}`)
  return `${pod} saw ${ips[0]}`
}

async function policy(shop: Shop): Promise<string> {
  const allowed = await shop.ask('shop', 'frontend', 'http://payments/')
  hold(allowed.text === 'paid\n', `the frontend was answered ${allowed.text.trim()}`)
  const refused = await shop.ask('shop', 'scraper', 'http://payments/', '--include')
  hold(refused.text.startsWith('HTTP/1.1 403'), `the scraper was answered ${refused.text.trim()}`)
  const why = await explain(shop, 'shop/scraper')
  hold(why.answer === 'denied' && why.lines.some((line) => line.includes('ALLOW shop/payments')), `explained as: ${why.lines.join('; ')}`)
  const { node } = await shop.pod('shop', 'payments')
  const counted = (await shop.metrics(node)).some(({ name, labels, value }) =>
    name === 'istio_tcp_connections_failed_total' && labels.get('response_flags') === 'DENY' && labels.get('source_principal')?.endsWith('/sa/scraper') === true && value > 0)
  hold(counted, 'the refusal is not in the metrics')
  return `scraper: ${why.because}, ${why.lines.find((line) => line.includes('rule 0'))?.trim().replaceAll('cluster.local/ns/shop/sa/', '') ?? 'no rule'}`
}

async function explain(shop: Shop, from: string): Promise<ExplainAnswer> {
  const { node } = await shop.pod('shop', 'payments')
  return shop.askZtunnel(node, explainAnswerSchema, `/explain?${new URLSearchParams({ from, to: 'payments.shop', port: '80' })}`)
}

async function plainText(shop: Shop): Promise<string> {
  const served = await shop.askStock('legacy', 'reporter', `http://${serviceIp}/`)
  const refused = await shop.ask('legacy', 'reporter', 'http://10.96.0.30/')
  hold(refused.code !== 0, `payments answered plain text: ${refused.text.trim()}`)
  const why = await explain(shop, 'legacy/reporter')
  hold(why.answer === 'denied' && why.lines.some((line) => line.includes('only through the waypoint')), `explained as: ${why.lines.join('; ')}`)
  return `${served.pod} serves legacy; payments: ${why.lines[0]?.replace(/.* is reached/, 'reached') ?? ''}`
}

async function ownPorts(shop: Shop): Promise<string> {
  const { ips: [ip = ''] } = await shop.pod('shop', 'frontend')
  const answers = await Promise.all([15_001, 15_006].map((port) => shop.ask('shop', 'frontend', `http://${ip}:${port}/`)))
  hold(answers.every(({ code }) => code === 7), `curl exited with ${answers.map(({ code }) => code).join(', ')}`)
  return 'refused on 15001 and 15006'
}

async function controlPlaneKilled(shop: Shop): Promise<string> {
  const { controlPlane: { pid } } = await shop.client.status()
  if (pid === undefined) throw new NotSo('there is no control plane')
  const before = await shop.counts('shop', 'frontend')
  process.kill(pid, 'SIGKILL')
  const startedAt = performance.now()
  const { pod } = await shop.askStock('shop', 'scraper', `http://${serviceIp}/`)
  const isAway = (await shop.client.status()).controlPlane.state !== 'ready'
  hold(isAway, 'it was back before anybody could miss it')
  await until('the control plane is back', async () => {
    const { controlPlane } = await shop.client.status()
    return controlPlane.state === 'ready' && controlPlane.pid !== pid && controlPlane.report?.nodes.every((node) => node.connected && node.current)
  })
  const awayMs = performance.now() - startedAt
  return `${pod} answered meanwhile; ${noneFailed(before, await shop.counts('shop', 'frontend'))}; back after ${seconds(awayMs)}`
}

async function label(shop: Shop): Promise<string> {
  const file = join(shop.directory, 'legacy.yaml')
  const text = readFileSync(file, 'utf8')
  const labelled = text.replace('labels: {}', 'labels: {sidestep.dev/mesh: enabled}')
  hold(labelled !== text, `${file} does not look as it did`)
  const before = await shop.counts('legacy', 'reporter')
  const become = (state: 'yes' | 'no'): Promise<void> => until(`reporter captured: ${state}`, async () => (await shop.pod('legacy', 'reporter')).captured === state)
  const opened = async (isMutualTls: boolean): Promise<number> => {
    const { nodes } = await shop.traffic()
    return [...nodes.values()].flatMap((edges) => [...edges.values()]).filter((edge) => edge.from === 'legacy/reporter' && edge.isMutualTls === isMutualTls).reduce((sum, edge) => sum + edge.opened, 0)
  }
  const startedAt = performance.now()
  let inMs = 0
  writeFileSync(file, labelled)
  try {
    await become('yes')
    const was = await opened(true)
    await until('the reporter\'s requests go through a tunnel', async () => await opened(true) > was)
    inMs = performance.now() - startedAt
    await sleep(dwellMs)
  } finally {
    writeFileSync(file, text)
  }
  await become('no')
  const was = await opened(false)
  await until('the reporter\'s requests are in plain text again', async () => await opened(false) > was)
  await sleep(dwellMs)
  return `${noneFailed(before, await shop.counts('legacy', 'reporter'), ['stock'])}; in after ${seconds(inMs)}`
}

async function applied(shop: Shop): Promise<string> {
  const name = 'strict-stock.yaml'
  const file = join(shop.directory, name)
  const isServed = async (): Promise<boolean> => (await shop.ask('legacy', 'reporter', `http://${serviceIp}/`)).code === 0
  hold(await isServed(), 'the stock does not serve plain text to begin with')
  const startedAt = performance.now()
  let afterMs = 0
  copyFileSync(join(shop.examples, 'try', name), file)
  try {
    await until('the stock takes no plain text', async () => !await isServed())
    afterMs = performance.now() - startedAt
    const { text } = await shop.ask('shop', 'scraper', `http://${serviceIp}/`)
    hold(text.includes('"stock"'), `the mesh's own pods were answered ${text.trim()}`)
  } finally {
    rmSync(file)
  }
  await until('the stock takes plain text again', isServed)
  return `${name}: plain text refused after ${seconds(afterMs)}, the mesh served, then as before`
}

async function replaced(shop: Shop): Promise<string> {
  const before = await shop.counts('shop', 'frontend')
  const told: string[] = []
  for (const node of await shop.nodes()) {
    const { pid } = await shop.ztunnel(node)
    await shop.client.replaceZtunnel(node)
    const { pid: next } = await shop.ztunnel(node)
    hold(next !== pid, `${node} has the same ztunnel as before`)
    told.push(`${pid} > ${next}`)
  }
  await sleep(dwellMs)
  return `${told.join(', ')}; ${noneFailed(before, await shop.counts('shop', 'frontend'))}`
}

async function ztunnelKilled(shop: Shop): Promise<string> {
  const before = await shop.ztunnel('node-a')
  const { name } = await shop.pod('shop', 'frontend')
  const ask = await shop.plan('shop', name, ['curl', '--silent', '--max-time', '2', `http://${serviceIp}/`])
  process.kill(before.pid, 'SIGKILL')
  const startedAt = performance.now()
  // Before the kernel has closed its sockets, a connection may still reach one, and be reset.
  await until('the process is gone', () => Promise.resolve(!isRunning(before.pid)))
  const { code } = await shop.runIn(ask)
  hold(code === 7, `while it was away, curl exited with ${code}: not refused`)
  await until('a ztunnel serves again', async () => (await shop.runIn(ask)).code === 0)
  const awayMs = performance.now() - startedAt
  const now = await shop.ztunnel('node-a')
  hold(now.pid !== before.pid, 'it was not killed')
  hold((now.counters['redirected'] ?? 0) >= (before.counters['redirected'] ?? 0), 'the counters of the hooks started again')
  return `refused at once, serving again after ${seconds(awayMs)}, with the same hooks`
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    // ESRCH: nobody has that pid.
    return false
  }
}

/** Prints a table; whether every claim held. Takes two minutes at most. */
export async function runDemoChecks(shop: Shop, signal: AbortSignal, print: (text: string) => void): Promise<boolean> {
  const rows: string[][] = []
  const startedAt = performance.now()
  for (const { claim, see } of claims) {
    if (signal.aborted) return false
    print(`checking: ${claim}`)
    const leftMs = Math.min(claimTimeoutMs + 5_000, allTimeoutMs - (performance.now() - startedAt))
    try {
      rows.push(['yes', claim, await within(leftMs, () => see(shop))])
    } catch (error) {
      rows.push(['NO', claim, error instanceof NotSo ? error.message : describeError(error)])
    }
  }
  print(`\n${table(['HOLDS', 'CLAIM', 'SEEN'], rows)}`)
  const held = rows.filter(([holds]) => holds === 'yes').length
  print(`\n${held} of ${rows.length} claims hold, checked in ${seconds(performance.now() - startedAt)}`)
  return held === rows.length
}

async function within(ms: number, run: () => Promise<string>): Promise<string> {
  hold(ms > 0, 'no time was left to look')
  const ended = new AbortController()
  const late = sleep(ms, undefined, { signal: ended.signal }).then(() => Promise.reject(new NotSo(`not answered within ${seconds(ms)}`)), () => '')
  try {
    return await Promise.race([run(), late])
  } finally {
    ended.abort()
  }
}
