// `sidestep workloads`, `services` and `policies`: what the ztunnels know of the mesh. Each ztunnel should know the same; the
// last column says who knows what only some do.
import { Command } from 'commander'
import { z } from 'zod'
import { policyViewSchema, serviceViewSchema, workloadViewSchema } from '../model/ztunnel-views.ts'
import type { PolicyView, ServiceView, WorkloadView } from '../model/ztunnel-views.ts'
import { outputOption, show, standardOutput } from './output.ts'
import type { Output, OutputForm } from './output.ts'
import { askZtunnel } from './ztunnel-client.ts'
import { addTargetOptions, askEach, targetsOf } from './ztunnel-targets.ts'
import type { TargetOptions } from './ztunnel-targets.ts'

interface Listing<T extends { readonly namespace: string }> {
  readonly command: 'workloads' | 'services' | 'policies'
  readonly description: string
  readonly schema: z.ZodType<T>
  /** What is one thing on all nodes. */
  readonly key: (item: T) => string
  readonly head: readonly string[]
  readonly row: (item: T) => readonly string[]
}

interface ListOptions extends TargetOptions {
  readonly output: OutputForm
  readonly namespace?: string
}

export function workloadsCommand(output: Output = standardOutput): Command {
  return listCommand<WorkloadView>({
    command: 'workloads', description: 'show the workloads that the ztunnels know', schema: workloadViewSchema, key: ({ uid }) => uid,
    head: ['NAMESPACE', 'WORKLOAD', 'IP', 'NODE', 'PROTOCOL', 'SERVICE ACCOUNT', 'HEALTHY', 'POLICIES', 'WAYPOINT'],
    row: ({ namespace, name, ips, node, tunnelProtocol, identity, healthy, policies, waypoint, waypointState }) => [
      namespace, name, ips[0] ?? 'none', node, tunnelProtocol === 'none' ? 'tcp' : tunnelProtocol, identity.split('/sa/')[1] ?? identity, healthy ? 'yes' : 'no', `${policies.length}`, waypointText(waypoint, waypointState),
    ],
  }, output)
}

export function servicesCommand(output: Output = standardOutput): Command {
  return listCommand<ServiceView>({
    command: 'services', description: 'show the services that the ztunnels know', schema: serviceViewSchema, key: ({ namespace, hostname }) => `${namespace}/${hostname}`,
    head: ['NAMESPACE', 'SERVICE', 'ADDRESS', 'PORTS', 'ENDPOINTS', 'LOAD BALANCING', 'WAYPOINT'],
    row: ({ namespace, hostname, name, addresses, ports, endpoints, loadBalancing, sessionAffinity, waypoint, waypointState }) => [
      namespace, hostname.startsWith(`${name}.${namespace}.`) ? name : hostname, addresses.join(' ') || 'none', ports.map(({ servicePort, targetPort }) => (servicePort === targetPort ? `${servicePort}` : `${servicePort}>${targetPort}`)).join(' '),
      `${endpoints.filter(({ healthy }) => healthy).length}/${endpoints.length}`, [loadBalancing, sessionAffinity].filter((text) => text !== '').join(', ') || 'any', waypointText(waypoint, waypointState),
    ],
  }, output)
}

export function policiesCommand(output: Output = standardOutput): Command {
  return listCommand<PolicyView>({
    command: 'policies', description: 'show the policies that the ztunnels enforce', schema: policyViewSchema, key: ({ namespace, name }) => `${namespace}/${name}`,
    head: ['NAMESPACE', 'POLICY', 'SCOPE', 'ACTION', 'RULES', 'NOTE'],
    row: ({ namespace, name, scope, action, dryRun, unsupported, rules }) => [
      namespace, name, scope === 'workloadSelector' ? 'workload' : scope, action, `${rules.length}`,
      unsupported === '' ? (dryRun ? 'dry run: decides nothing' : '') : `refuses: ${unsupported}`,
    ],
  }, output)
}

const waypointStates: Readonly<Record<string, string>> = { notReady: ' (not ready: refused)', unknown: ' (unknown: refused)', skipped: ' (not ready: skipped)' }

/** With what is to be known of it beside that it is there. */
function waypointText(waypoint: string, state: string): string {
  return waypoint === '' ? 'none' : `${waypoint}${waypointStates[state] ?? ''}`
}

function listCommand<T extends { readonly namespace: string }>(listing: Listing<T>, output: Output): Command {
  const { command, description, schema, key, head, row } = listing
  return addTargetOptions(new Command(command).description(description))
    .option('-n, --namespace <namespace>', 'only those of this namespace')
    .addOption(outputOption())
    .addHelpText('after', `\nExamples:\n  sidestep ${command} -n shop\n  sidestep ${command} --node node-a -o json`)
    .action(async (options: ListOptions) => {
      const targets = await targetsOf(options)
      const answers = await askEach(targets, ({ address }) => askZtunnel(address, z.array(schema), `/${command}`), output.warn)
      const merged = new Map<string, { item: T; knownBy: string[] }>()
      for (const { target, answer } of answers) {
        for (const item of answer) {
          if (options.namespace !== undefined && item.namespace !== options.namespace) continue
          const known = merged.get(key(item))
          if (known) known.knownBy.push(target.node)
          else merged.set(key(item), { item, knownBy: [target.node] })
        }
      }
      const sorted = [...merged].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value)
      const isEverywhere = ({ knownBy }: { knownBy: string[] }): boolean => knownBy.length === answers.length
      const hasPartial = sorted.some((each) => !isEverywhere(each))
      output.print(show(
        options.output, sorted.map(({ item, knownBy }) => (answers.length > 1 ? { ...item, knownBy } : item)), hasPartial ? [...head, 'KNOWN BY'] : head,
        sorted.map((each) => [...row(each.item), ...(hasPartial ? [isEverywhere(each) ? 'all' : each.knownBy.join(' ')] : [])]), `no ${command}`,
      ))
    })
}
