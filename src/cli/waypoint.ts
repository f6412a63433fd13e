// `sidestep waypoint`: make, list, look at and remove waypoints. It writes the same YAML that a person would and asks the daemon;
// what a file says is the file's, and changed there.
import { setTimeout as sleep } from 'node:timers/promises'
import { Argument, Command, InvalidArgumentError, Option } from 'commander'
import { MeshError } from '../core/errors.ts'
import { useWaypointLabel, waypointFor, waypointNamespaceLabel, waypointWish, type WaypointFor } from '../model/gateway-labels.ts'
import type { GatewayStatus, LocalStatus } from '../model/local-status.ts'
import { ApiClient } from './api-client.ts'
import type { Connect } from './cluster.ts'
import { addClusterChoice, applyOnCluster, deleteOnCluster, isOnCluster, listOnCluster, statusOnCluster, type ClusterChoice } from './cluster-waypoint.ts'
import { nameOption } from './options.ts'
import { bytesText, durationText, outputOption, show, standardOutput, visible, type Output, type OutputForm } from './output.ts'
import { lookAtWaypoint, notInForce, type PodLook, type WaypointLook } from './waypoint-look.ts'
import { gatewayYaml, namespaceYaml } from './waypoint-yaml.ts'

const pollMs = 150

interface Place extends ClusterChoice {
  /** Of the mesh. */
  readonly name: string
  readonly namespace: string
}
interface Wish {
  readonly namespace: string
  readonly for?: WaypointFor
  readonly replicas?: number
  readonly enrollNamespace?: boolean
}

export function waypointCommand(connect: Connect, output: Output = standardOutput): Command {
  return new Command('waypoint')
    .description('waypoints: proxies that look into the requests of a namespace, a service or a pod that uses them')
    .addCommand(applyCommand(connect, output))
    .addCommand(generateCommand(output))
    .addCommand(listCommand(connect, output))
    .addCommand(statusCommand(connect, output))
    .addCommand(restartCommand(output))
    .addCommand(deleteCommand(connect, output))
}

const namespaceOption = (): Option => new Option('-n, --namespace <namespace>', 'namespace of the waypoint').default('default').argParser(dnsLabel)
const waypointArgument = (): Argument => new Argument('[waypoint]', 'its name').argParser(dnsLabel).default('waypoint')

function addWishOptions(command: Command): Command {
  return command
    .addArgument(waypointArgument())
    .addOption(namespaceOption())
    .addOption(new Option('--for <what>', 'whose requests it takes: those to services, to pods, or both').choices(waypointFor))
    .option('--replicas <count>', 'how many of it run', replicaCount)
    .option('--enroll-namespace', 'let its namespace use it')
}

function generateCommand(output: Output): Command {
  return addWishOptions(new Command('generate').description('print the YAML of a waypoint, to be kept in a file'))
    .addHelpText('after', '\nExample:\n  sidestep waypoint generate -n shop --enroll-namespace --replicas 2 > waypoint.yaml')
    .action((waypoint: string, wish: Wish) => output.print(yamlOf(waypoint, wish)))
}

function yamlOf(waypoint: string, { namespace, for: serves, replicas, enrollNamespace }: Wish, labels: Readonly<Record<string, string>> = {}): string {
  const gateway = gatewayYaml({ namespace, waypoint, ...(serves === undefined ? {} : { serves }), ...(replicas === undefined ? {} : { replicas }) })
  return (enrollNamespace === true ? `${gateway}---\n${namespaceYaml(namespace, waypoint, labels)}` : gateway).trimEnd()
}

interface ApplyOptions extends Place, Wish {
  readonly namespace: string
  readonly wait?: boolean
  readonly timeout: number
  readonly overwrite?: boolean
}

function applyCommand(connect: Connect, output: Output): Command {
  return addClusterChoice(addWishOptions(new Command('apply').description('give a waypoint to a running mesh, or to a Kubernetes cluster')))
    .option('--overwrite', 'also where a file has a Gateway of that name, or the namespace uses another waypoint')
    .option('--wait', 'return when it is ready')
    .option('--timeout <seconds>', 'how long to wait for that', seconds, 60)
    .addOption(nameOption())
    .addHelpText('after', `
What is applied lasts as long as the mesh and counts before what files say. To keep it, write the YAML to the mesh's directory:
\`sidestep waypoint generate\` prints it.

On a cluster it is a Gateway like any other, and stays.

Examples:
  sidestep waypoint apply -n shop --enroll-namespace --wait
  sidestep waypoint apply --cluster -n shop --enroll-namespace --wait
  sidestep waypoint apply payments-guard -n shop --for service --replicas 2`)
    .action(async (waypoint: string, options: ApplyOptions) => {
      const { namespace, name } = options
      if (isOnCluster(options)) {
        const { for: serves, replicas, enrollNamespace, overwrite, wait, timeout } = options
        return applyOnCluster(connect, options, {
          namespace, waypoint, ...(serves === undefined ? {} : { serves }), ...(replicas === undefined ? {} : { replicas }),
          enrollNamespace: enrollNamespace === true, overwrite: overwrite === true, timeoutSeconds: wait === true ? timeout : undefined,
        }, output)
      }
      const client = new ApiClient(name)
      const status = await client.status()
      if (!status.mesh || status.controlPlane.state === 'off') throw new MeshError('BAD_CONFIG', `mesh ${name} has no control plane and no ztunnels, so it runs no waypoints`)
      const labels = mayApply(waypoint, options, status)
      const applied = await client.apply(yamlOf(waypoint, options, labels))
      for (const object of applied.objects) output.print(`applied ${object}`)
      if (options.enrollNamespace !== true && !status.gateways.some(({ usedBy }) => usedBy.length > 0)) {
        output.print(`nothing uses it yet: --enroll-namespace lets ${namespace} do so, or label a service or a pod ${useWaypointLabel}=${waypoint}`)
      }
      if (options.wait === true) await waitUntilReady(client, namespace, waypoint, options.timeout, output)
    })
}

/** Labels that the namespace has and keeps. BAD_CONFIG, saying what to do, where a file says something else. */
function mayApply(waypoint: string, { namespace, enrollNamespace, overwrite }: ApplyOptions, { gateways, namespaces }: LocalStatus): Readonly<Record<string, string>> {
  const id = `${namespace}/${waypoint}`
  const existing = gateways.find((each) => `${each.namespace}/${each.name}` === id)
  if (existing && existing.role !== 'waypoint') throw new MeshError('BAD_CONFIG', `the Gateway ${id} is an ${existing.role}; choose another name`)
  if (existing && existing.file !== '' && overwrite !== true) {
    throw new MeshError('BAD_MANIFEST', `the Gateway ${id} is in ${existing.file}:${existing.line}: change it there, or let what is applied count with --overwrite`)
  }
  const declared = namespaces.find(({ name }) => name === namespace)
  const labels = declared?.labels ?? {}
  if (enrollNamespace !== true) return labels
  const wish = waypointWish(labels, namespace)
  if (wish && (wish.name !== waypoint || wish.namespace !== namespace) && overwrite !== true) {
    throw new MeshError('BAD_CONFIG', `the namespace ${namespace} uses the waypoint ${wish.namespace}/${wish.name}; --overwrite gives it this one`)
  }
  // An applied Namespace would hide the file's for good, its other labels included.
  if (declared && declared.file !== '' && !(wish?.name === waypoint && wish.namespace === namespace)) {
    throw new MeshError('BAD_MANIFEST', [
      `the namespace ${namespace} is in ${declared.file}:${declared.line}, and files are not changed from here.`,
      `Add this label to its metadata there, and apply the waypoint without --enroll-namespace:`,
      `    ${useWaypointLabel}: ${waypoint}`,
      '',
    ].join('\n'))
  }
  // Where the waypoint was elsewhere before.
  return Object.fromEntries(Object.entries(labels).filter(([label]) => label !== waypointNamespaceLabel && label !== waypointNamespaceLabel.replace('sidestep.dev/', 'istio.io/')))
}

async function waitUntilReady(client: ApiClient, namespace: string, waypoint: string, timeoutSeconds: number, output: Output): Promise<void> {
  const deadline = performance.now() + timeoutSeconds * 1_000
  for (let said = ''; ; await sleep(pollMs)) {
    const status = await client.status()
    const gateway = find(status, namespace, waypoint)
    const problems = notInForce(status, `Gateway ${namespace}/${waypoint}`)
    const line = `${gateway.ready} of ${gateway.replicas} ready${gateway.reason === '' ? '' : `: ${gateway.reason}`}`
    if (line !== said) output.print(visible(line))
    said = line
    const isDone = [gateway.ready, gateway.updated, gateway.pods].every((count) => count === gateway.replicas)
    if (gateway.replicas > 0 && isDone && status.controlPlane.state === 'ready') return
    if (performance.now() < deadline && problems.length === 0) continue
    const why = problems.length > 0 ? problems.join('; ') : gateway.reason || 'its pods are being replaced'
    throw new MeshError('COMMAND_FAILED', `waypoint ${namespace}/${waypoint} is not ready${problems.length > 0 ? '' : ` after ${timeoutSeconds} s`}: ${why}; see \`sidestep waypoint status ${waypoint} -n ${namespace}\``)
  }
}

function find({ gateways, name }: LocalStatus, namespace: string, waypoint: string): GatewayStatus {
  const found = gateways.find((each) => each.role === 'waypoint' && each.namespace === namespace && each.name === waypoint)
  if (found) return found
  const others = gateways.filter(({ role }) => role === 'waypoint').map((each) => `${each.namespace}/${each.name}`)
  throw new MeshError('NOT_FOUND', `mesh ${name} has no waypoint ${namespace}/${waypoint}; it has ${others.join(', ') || 'none'}`)
}

function listCommand(connect: Connect, output: Output): Command {
  return addClusterChoice(new Command('list'))
    .description('show the waypoints of a mesh')
    .option('-n, --namespace <namespace>', 'only those of this namespace')
    .addOption(nameOption())
    .addOption(outputOption())
    .action(async ({ name, namespace, output: form, ...choice }: ClusterChoice & { name: string; namespace?: string; output: OutputForm }) => {
      if (isOnCluster(choice)) return listOnCluster(connect, choice, namespace, form, output)
      const status = await new ApiClient(name).status()
      const waypoints = status.gateways.filter((each) => each.role === 'waypoint' && (namespace === undefined || each.namespace === namespace))
      const items = waypoints.map((each) => ({ ...each, problems: notInForce(status, `Gateway ${each.namespace}/${each.name}`) }))
      output.print(show(
        form, items, ['NAMESPACE', 'WAYPOINT', 'READY', 'FOR', 'USED BY', 'FROM', 'PROBLEM'],
        items.map((each) => [
          each.namespace, each.name, `${each.ready}/${each.replicas}`, each.serves, each.usedBy.join(', ') || 'nobody', each.file === '' ? 'applied' : `${each.file}:${each.line}`,
          [...each.problems, each.reason].filter((text) => text !== '').join('; '),
        ]),
        'no waypoints',
      ))
    })
}

function statusCommand(connect: Connect, output: Output): Command {
  return addClusterChoice(new Command('status'))
    .description('show whether a waypoint is ready, whose requests it takes, and what is wrong; exits with 1 if it is not ready')
    .addArgument(waypointArgument())
    .addOption(namespaceOption())
    .addOption(nameOption())
    .addOption(outputOption())
    .action(async (waypoint: string, { name, namespace, output: form, ...choice }: Place & { output: OutputForm }) => {
      if (isOnCluster(choice)) return statusOnCluster(connect, choice, namespace, waypoint, form, output)
      const status = await new ApiClient(name).status()
      const look = await lookAtWaypoint(status, find(status, namespace, waypoint))
      if (!look.ready) process.exitCode = 1
      output.print(form === 'table' ? statusText(look).map(visible).join('\n') : show(form, look, [], [], ''))
    })
}

function statusText({ gateway, ready, pods, bound, problems }: WaypointLook): string[] {
  const { namespace, name, serves, usedBy, file, line } = gateway
  const lines = [
    `waypoint ${namespace}/${name} (${file === '' ? 'applied' : `${file}:${line}`}), for ${serves === 'all' ? 'services and pods' : serves}`,
    `ready: ${ready ? 'yes' : 'no'}, ${gateway.ready} of ${gateway.replicas} pods${gateway.reason === '' ? '' : `: ${gateway.reason}`}`,
    ...pods.map((pod) => `  ${pod.name} on ${pod.node || 'no node'} (${pod.ips[0] ?? 'no address'}): ${pod.ready ? 'ready' : pod.reason || pod.phase}${pod.restarts > 0 ? `, ${pod.restarts} restarts` : ''}${proxyText(pod)}`),
    `asked for by: ${usedBy.join(', ') || `nobody; label a namespace, service or pod ${useWaypointLabel}=${name}`}`,
    bound === undefined ? 'in force: no ztunnel answers' : `in force before services: ${bound.services.join(', ') || 'none'}`,
    ...(bound && bound.workloads.length > 0 ? [`in force before pods: ${bound.workloads.join(', ')}`] : []),
  ]
  return problems.length === 0 ? [...lines, 'problems: none'] : [...lines, 'problems:', ...problems.map((problem) => `  ${problem}`)]
}

function proxyText({ says }: PodLook): string {
  if (!says) return ''
  const { xds, certificates, tunnels, streams, memory } = says
  const certificate = certificates.soonestExpiry === '' ? 'no certificate' : `certificate for ${durationText(Date.parse(certificates.soonestExpiry) - Date.now())}`
  return `; ${xds.because === '' ? '' : `control plane ${xds.state}: ${xds.because}, `}${certificate}, ${tunnels.connections} tunnels, ${streams.open} of ${streams.limit} streams, ${bytesText(memory.rss)}`
}

function restartCommand(output: Output): Command {
  return new Command('restart')
    .description('replace the pods of a waypoint one after the other; each old one finishes what it carries')
    .addArgument(waypointArgument())
    .addOption(namespaceOption())
    .option('--wait', 'return when all are replaced')
    .option('--timeout <seconds>', 'how long to wait for that', seconds, 90)
    .addOption(nameOption())
    .action(async (waypoint: string, { name, namespace, wait, timeout }: Place & { wait?: boolean; timeout: number }) => {
      const client = new ApiClient(name)
      find(await client.status(), namespace, waypoint)
      await client.restartGateway({ namespace, name: waypoint })
      output.print(`replacing the pods of ${namespace}/${waypoint}`)
      if (wait === true) await waitUntilReady(client, namespace, waypoint, timeout, output)
    })
}

function deleteCommand(connect: Connect, output: Output): Command {
  return addClusterChoice(new Command('delete'))
    .description('take back waypoints that were applied')
    .argument('[waypoint...]', 'their names')
    .addOption(namespaceOption())
    .option('--all', 'all that were applied in the namespace')
    .option('--force', 'also those that are still asked for: their requests are refused from then on')
    .addOption(nameOption())
    .action(async (named: string[], { name, namespace, all, force, ...choice }: Place & { all?: boolean; force?: boolean }) => {
      if (isOnCluster(choice)) return deleteOnCluster(connect, choice, namespace, named, force === true, output)
      const client = new ApiClient(name)
      const status = await client.status()
      const applied = status.gateways.filter((each) => each.role === 'waypoint' && each.namespace === namespace && each.file === '')
      if (named.length === 0 && all !== true) throw new MeshError('BAD_CONFIG', 'say which waypoints, or --all')
      const wanted = all === true ? applied : [...new Set(named)].map((waypoint) => find(status, namespace, waypoint))
      // All of them or none.
      for (const each of wanted) mayDelete(each, force === true)
      if (wanted.length === 0) output.print(`no waypoints were applied in ${namespace}`)
      for (const each of wanted) {
        await client.unapply(`Gateway ${namespace}/${each.name}`)
        output.print(`took back Gateway ${namespace}/${each.name}`)
        const left = (await client.status()).gateways.find((other) => other.namespace === namespace && other.name === each.name)
        if (left) output.print(`the Gateway of ${left.file}:${left.line} counts again`)
        else if (each.usedBy.length > 0) output.warn(visible(`requests to ${each.usedBy.join(', ')} are refused until the label ${useWaypointLabel} is gone or another waypoint of that name is there`))
      }
    })
}

function mayDelete({ namespace, name, file, line, usedBy }: GatewayStatus, isForced: boolean): void {
  const id = `${namespace}/${name}`
  if (file !== '') throw new MeshError('BAD_MANIFEST', `the Gateway ${id} is in ${file}:${line}: remove it there`)
  if (usedBy.length === 0 || isForced) return
  throw new MeshError('BAD_CONFIG', `${usedBy.join(', ')} still ${usedBy.length === 1 ? 'asks' : 'ask'} for ${id}, and without it their requests would be refused: take away the label ${useWaypointLabel} first, or use --force`)
}

function dnsLabel(text: string): string {
  if (!/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(text)) throw new InvalidArgumentError('expected a DNS label in lower case')
  return text
}

function replicaCount(text: string): number {
  if (!/^\d{1,3}$/.test(text) || Number(text) > 100) throw new InvalidArgumentError('expected a number from 0 to 100')
  return Number(text)
}

function seconds(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) < 1) throw new InvalidArgumentError('expected whole seconds')
  return Number(text)
}

