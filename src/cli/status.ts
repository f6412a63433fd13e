// `sidestep status`: what runs, where, and what is wrong, for people or for programs.
import { Command, Option } from 'commander'
import { stringify } from 'yaml'
import type { LocalControlPlane, LocalStatus } from '../model/local-status.ts'
import { ApiClient } from './api-client.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import { nameOption } from './options.ts'
import { durationText, visible } from './output.ts'
import { ztunnelState } from './ztunnel-client.ts'
import { localAddress } from './ztunnel-targets.ts'

export function statusCommand(print: (text: string) => void = console.log): Command {
  return new Command('status')
    .description('show nodes, pods, services and problems of a local mesh')
    .addOption(nameOption())
    .addOption(new Option('-o, --output <form>', 'how to show it').choices(['table', 'json', 'yaml']).default('table'))
    .action(async ({ name, output }: { name: string; output: 'table' | 'json' | 'yaml' }) => {
      const status = await new ApiClient(name).status()
      const ztunnels = await ztunnelsOf(status)
      const all = { ...status, ztunnels: Object.fromEntries(ztunnels) }
      switch (output) {
        case 'json': return print(JSON.stringify(all, null, 2))
        case 'yaml': return print(stringify(all).trimEnd())
        case 'table': return print(statusTable(status, ztunnels))
        default: return output satisfies never
      }
    })
}

type ZtunnelFacts = Pick<ZtunnelState, 'xds' | 'certificates' | 'connections'>

/** What those say of themselves that answer. */
async function ztunnelsOf({ name, nodes }: LocalStatus): Promise<ReadonlyMap<string, ZtunnelFacts>> {
  const running = nodes.filter(({ ztunnel }) => ztunnel !== 'off').map((node) => node.name)
  const states = await Promise.allSettled(running.map((node) => ztunnelState(localAddress(name, node))))
  return new Map(states.flatMap((state, i): [string, ZtunnelFacts][] => {
    if (state.status === 'rejected') return []
    const { xds, certificates, connections } = state.value
    return [[running[i] ?? '', { xds, certificates, connections }]]
  }))
}

function ztunnelCells(facts: ZtunnelFacts | undefined): string[] {
  if (!facts) return ['-', '-', '-']
  const { xds, certificates: { total, ready, failed, soonestExpiry }, connections } = facts
  const expiry = soonestExpiry === '' ? '' : `, first expires in ${durationText(Date.parse(soonestExpiry) - Date.now())}`
  return [visible(xds.because === '' ? xds.state : `${xds.state}: ${xds.because.slice(0, 80)}`), `${ready}/${total}${failed > 0 ? `, ${failed} failed` : ''}${expiry}`, `${connections.open}`]
}

/** Tables of what there is; sections without rows are left out. */
export function statusTable(status: LocalStatus, ztunnels: ReadonlyMap<string, ZtunnelFacts> = new Map()): string {
  const more = ztunnels.size > 0 ? ['XDS', 'CERTIFICATES', 'CONNECTIONS'] : []
  const sections = [
    table(['NODE', 'IP', 'PODS', 'ZTUNNEL', ...more], status.nodes.map((node) => [
      node.name, node.ips.join(' '), `${node.pods}`, node.ztunnel, ...(more.length > 0 ? ztunnelCells(ztunnels.get(node.name)) : []),
    ])),
    ...controlPlaneSections(status.controlPlane),
    table(
      ['NAMESPACE', 'POD', 'NODE', 'IP', 'PHASE', 'READY', 'RESTARTS', 'CAPTURED', 'REASON'],
      status.pods.map((pod) => [
        pod.namespace, pod.name, pod.node, pod.ips[0] ?? '', pod.phase, pod.ready ? 'yes' : 'no', `${pod.restarts}`, pod.captured, pod.reason,
      ]),
    ),
    table(
      ['NAMESPACE', 'DEPLOYMENT', 'READY', 'UP-TO-DATE'],
      status.deployments.map((d) => [d.namespace, d.name, `${d.ready}/${d.replicas}`, `${d.updated}`]),
    ),
    table(
      ['NAMESPACE', 'SERVICE', 'IP', 'PORT', 'ENDPOINTS'],
      status.services.flatMap((service) => service.ports.map((port) => [
        service.namespace, service.name, service.ips.join(' ') || 'none', `${port.port}/${port.protocol}`, shorten(port.endpoints),
      ])),
    ),
    table(
      ['NAMESPACE', 'GATEWAY', 'ROLE', 'READY', 'FOR', 'USED BY', 'REASON'],
      status.gateways.map((each) => [each.namespace, each.name, each.role, `${each.ready}/${each.replicas}`, each.serves || '-', shorten(each.usedBy), visible(each.reason)]),
    ),
    table(
      ['PUBLISHED', 'LEADS TO', 'CONNECTIONS', 'STATE'],
      status.published.map(({ address, url, gateway, port, connections, listening, because }) => [url || address, `${gateway}:${port}`, `${connections}`, listening ? 'listening' : visible(because)]),
    ),
    ...(status.problems.length > 0 ? [['PROBLEMS', ...status.problems.map((p) => `  ${p.file}:${p.line}: ${p.reason}`)].join('\n')] : []),
    ...(status.notes.length > 0 ? [['NOTES', ...status.notes.map((p) => `  ${p.file}:${p.line}: ${p.reason}`)].join('\n')] : []),
  ]
  return sections.filter((section) => section !== '').join('\n\n')
}

/** Itself, the nodes that hear from it, and what is not in force as somebody wrote it. */
function controlPlaneSections({ state, pid, report }: LocalControlPlane): string[] {
  if (state === 'off') return []
  const head = ['CONTROL PLANE', 'PID', 'WORKLOADS', 'SERVICES', 'POLICIES', 'CA EXPIRES', 'ROOTS', 'REVOKED']
  if (!report) return [table(head, [[state, `${pid ?? 'none'}`, '?', '?', '?', '?', '?', '?']])]
  const { ca, nodes, refused, problems } = report
  const roots = ca.rotation === 'steady' ? `${ca.roots}` : `${ca.roots} (${ca.rotation}${ca.nextStep === undefined ? '' : ` until ${ca.nextStep.slice(0, 16)}Z`})`
  return [
    table(head, [[
      report.podsConnected ? state : `${state}, hears of no pods`, `${pid ?? 'none'}`, `${report.workloads}`, `${report.services}`, `${report.policies}`,
      ca.expires.slice(0, 10), roots, `${ca.revoked}`,
    ]]),
    table(['CONNECTED NODE', 'PEER', 'STATE', 'ACKED', 'REFUSED'], nodes.map((node) => [
      node.node, node.peer, node.connected ? (node.current ? 'up to date' : `${node.behind} behind`) : 'gone', `${node.acked}`,
      node.nacks.length === 0 ? `${node.nacked}` : `${node.nacked}, now: ${node.nacks.slice(0, 3).map((nack) => `${nack.resource}: ${nack.because}`).join('; ')}`,
    ])),
    ...(refused.length > 0 || problems.length > 0 ? [[
      'NOT IN FORCE AS WRITTEN',
      ...refused.map(({ object, file, line, reasons }) => `  ${object} (${file}:${line}): ${reasons.join('; ')}`),
      ...problems.map((problem) => `  ${problem.file}:${problem.line}: ${problem.reason}`),
    ].join('\n')] : []),
  ]
}

function shorten(endpoints: readonly string[]): string {
  const shown = endpoints.filter((endpoint) => !endpoint.startsWith('['))
  const list = shown.length > 0 ? shown : endpoints
  return list.length > 3 ? `${list.slice(0, 3).join(' ')} and ${list.length - 3} more` : list.join(' ') || 'none'
}

/** Left-aligned columns under their titles; empty without rows. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return ''
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  return [head, ...rows].map((row) => row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ').trimEnd()).join('\n')
}
