// `sidestep install` and `sidestep upgrade`: look whether the cluster can have it, apply what src/install says, in order, and wait until it
// runs. Prints what it does; changes nothing that is not Sidestep's.
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, InvalidArgumentError, Option } from 'commander'
import { stringify } from 'yaml'
import { MeshError } from '../core/errors.ts'
import { yamlStyle, type InstallObject } from '../install/common.ts'
import { installGroups, type InstallFiles } from '../install/objects.ts'
import { nameOf, objectText, readRecord, recordName, recordObject, refusedSkip, type InstallRecord } from '../install/record.ts'
import { readValues, version, type GivenValues, type InstallValues } from '../install/values.ts'
import { isNotFound } from '../kube/answers.ts'
import { controlPlaneName, systemNamespace, ztunnelName } from '../model/kubernetes-names.ts'
import { addClusterOptions, Cluster, fieldOf, listOf, textOf, type ClusterOptions, type Connect } from './cluster.ts'
import { checkBefore, isFit } from './cluster-check-before.ts'
import { changes } from './cluster-diff.ts'
import { findingsTable } from './cluster-findings.ts'
import { objectsBelow } from './install-files.ts'
import { givenValues } from './install-values.ts'
import { standardOutput, visible, type Output } from './output.ts'
import { waitForRollout } from './rollout.ts'

interface InstallOptions extends ClusterOptions {
  readonly set: readonly string[]
  readonly values: readonly string[]
  readonly dryRun?: boolean
  readonly output?: 'yaml'
  readonly wait: boolean
  readonly timeout: number
  readonly gatewayApiCrds?: string
  readonly checks: boolean
  readonly resetValues?: boolean
  readonly force?: boolean
}

/** What was applied, and what was left out because the cluster has no such kind. */
interface Applied {
  readonly objects: readonly InstallObject[]
  readonly leftOut: readonly string[]
}

function addInstallOptions(command: Command): Command {
  const collect = (value: string, before: readonly string[]): string[] => [...before, value]
  return addClusterOptions(command)
    .addOption(new Option('--set <name=value>', 'a value; may be there several times').argParser(collect).default([], ''))
    .addOption(new Option('-f, --values <file>', 'a YAML file of values; may be there several times').argParser(collect).default([], ''))
    .addOption(new Option('-o, --output <form>', 'print all objects, and apply none').choices(['yaml']))
    .option('--dry-run', 'ask the API server what would change, and change nothing')
    .option('--gateway-api-crds <directory>', "install Gateway API's kinds from the YAML files there, if the cluster has none")
    .option('--no-checks', 'do not look first whether the cluster can have it')
    .option('--no-wait', 'do not wait until everything runs')
    .option('--timeout <seconds>', 'how long to wait for that', seconds, 300)
}

export function installCommand(connect: Connect, files: () => InstallFiles, output: Output = standardOutput): Command {
  return addInstallOptions(new Command('install').description('install Sidestep in a Kubernetes cluster'))
    .addHelpText('after', `
All values, with what they are for, are in deploy/helm/sidestep/values.yaml and docs/install.md.

Examples:
  sidestep install
  sidestep install --set compat.istioLabels=true --set controlPlane.replicas=3
  sidestep install -f values.yaml -o yaml > sidestep.yaml`)
    .action(async (options: InstallOptions) => {
      const given = givenValues(options.values, options.set)
      const values = readValues(given)
      if (options.output === 'yaml') return output.print(yamlOf(values, files()))
      await withCluster(connect, options, async (cluster) => {
        const { namespace } = values
        refuseHelm(await cluster.find({ apiVersion: 'apps/v1', kind: 'Deployment', namespace, name: controlPlaneName }))
        const record = await findRecord(cluster, namespace)
        if (record && record.version !== version) {
          throw new MeshError('ALREADY_RUNNING', `Sidestep ${record.version} is installed in ${namespace}; \`sidestep upgrade\` makes it ${version}`)
        }
        await check(cluster, options, values, output)
        await bring(cluster, options, { given, values, files: files(), record }, output)
        if (options.dryRun !== true) output.print(nextSteps)
      })
    })
}

export function upgradeCommand(connect: Connect, files: () => InstallFiles, output: Output = standardOutput): Command {
  return addInstallOptions(new Command('upgrade').description('bring the Sidestep of a cluster to this version, or to other values'))
    .option('--reset-values', 'forget the values that were given before; else they hold unless given anew')
    .option('--force', 'also where this version was never tried beside that of the cluster')
    .addHelpText('after', `
On each node the new ztunnel takes over before the old one ends, and that finishes its connections.

Examples:
  sidestep upgrade --dry-run
  sidestep upgrade --set ztunnel.logLevel=debug`)
    .action(async (options: InstallOptions) => {
      await withCluster(connect, options, async (cluster) => {
        const wanted = readValues(givenValues(options.values, options.set))
        const record = await findRecord(cluster, wanted.namespace)
        refuseHelm(await cluster.find({ apiVersion: 'apps/v1', kind: 'Deployment', namespace: wanted.namespace, name: controlPlaneName }))
        if (!record) throw new MeshError('NOT_FOUND', `\`sidestep install\` has installed nothing in the namespace ${wanted.namespace}; use it first, or say --set namespace=NAME`)
        const skip = refusedSkip(record.version, version)
        if (skip !== undefined && options.force !== true) throw new MeshError('BAD_CONFIG', `${skip}; --force goes on all the same`)
        const given = givenValues(options.values, options.set, options.resetValues === true ? {} : record.values)
        const values = readValues(given)
        if (options.output === 'yaml') return output.print(yamlOf(values, files()))
        output.print(record.version === version ? `Sidestep ${version} in ${values.namespace}` : `Sidestep ${record.version} -> ${version} in ${values.namespace}`)
        await check(cluster, options, values, output)
        await bring(cluster, options, { given, values, files: files(), record }, output)
      })
    })
}

async function withCluster(connect: Connect, options: ClusterOptions, work: (cluster: Cluster) => Promise<void>): Promise<void> {
  const { api, close } = await connect(options)
  try {
    await work(new Cluster(api))
  } finally {
    close()
  }
}

/** Undefined where nothing was installed by this command. */
export async function findRecord(cluster: Cluster, namespace: string = systemNamespace): Promise<InstallRecord | undefined> {
  const object = await cluster.find({ apiVersion: 'v1', kind: 'ConfigMap', namespace, name: recordName })
  return object && readRecord(object)
}

/** Two owners of the same objects would undo what the other does. */
export function refuseHelm(deployment: object | undefined): void {
  const release = textOf(deployment, 'metadata', 'annotations', 'meta.helm.sh/release-name')
  if (release !== '') throw new MeshError('BAD_CONFIG', `Helm installed this, as release ${release}: use helm upgrade and helm uninstall`)
}

async function check(cluster: Cluster, { checks, gatewayApiCrds }: InstallOptions, values: InstallValues, output: Output): Promise<void> {
  if (!checks) return
  const findings = await checkBefore(cluster, { namespace: values.namespace, hasOwnGatewayApi: gatewayApiCrds !== undefined })
  const told = findings.filter(({ status }) => status === 'warn' || status === 'fail')
  if (told.length > 0) output.print(findingsTable(told))
  if (!isFit(findings)) throw new MeshError('BAD_CONFIG', 'Sidestep cannot run in this cluster as it is; `sidestep check --pre` shows it all, and --no-checks goes on all the same')
}

function yamlOf(values: InstallValues, files: InstallFiles): string {
  const objects = installGroups(files).flatMap((group) => (group.when?.(values) === false ? [] : group.objects(values)))
  return objects.map((object) => stringify(object, yamlStyle)).join('---\n').trimEnd()
}

interface Plan {
  readonly given: GivenValues
  readonly values: InstallValues
  readonly files: InstallFiles
  readonly record: InstallRecord | undefined
}

async function bring(cluster: Cluster, options: InstallOptions, plan: Plan, output: Output): Promise<void> {
  const { values, record } = plan
  const isDryRun = options.dryRun === true
  if (options.gatewayApiCrds !== undefined) await bringGatewayApi(cluster, options.gatewayApiCrds, isDryRun, output)
  const { objects, leftOut } = await applyGroups(cluster, plan, isDryRun, output)
  for (const sentence of leftOut) output.warn(sentence)
  const wanted = new Set(objects.map((object) => objectText(nameOf(object))))
  for (const name of record?.objects ?? []) {
    if (wanted.has(objectText(name)) || name.kind === 'CustomResourceDefinition' || name.kind === 'Namespace') continue
    if (isDryRun ? (await cluster.find(name)) !== undefined : await cluster.remove(name)) output.print(`${objectText(name)}: ${isDryRun ? 'would be removed' : 'removed'}`)
  }
  if (isDryRun) return
  await cluster.apply(recordObject(values.namespace, plan.given, objects))
  if (!options.wait) return
  await waitForRollout(cluster, [
    { apiVersion: 'apps/v1', kind: 'Deployment', namespace: values.namespace, name: controlPlaneName },
    { apiVersion: 'apps/v1', kind: 'DaemonSet', namespace: values.namespace, name: ztunnelName },
  ], options.timeout * 1_000, output)
}

async function applyGroups(cluster: Cluster, { values, files }: Plan, isDryRun: boolean, output: Output): Promise<Applied> {
  const applied: InstallObject[] = []
  const leftOut: string[] = []
  for (const { name, when, objects } of installGroups(files)) {
    if (when?.(values) === false) continue
    const all = objects(values)
    const [first] = all
    if (!first) continue
    if (name !== 'crds' && (await cluster.typeOf(first)) === undefined) {
      leftOut.push(`${name}: left out, because this cluster has no ${first.kind} of ${first.apiVersion}${hints[name] ?? ''}`)
      continue
    }
    let changed = 0
    for (const object of all) {
      const lines = await applyOne(cluster, object, isDryRun)
      if (lines === undefined) continue
      changed++
      if (isDryRun) for (const line of lines) output.print(line)
    }
    if (name === 'crds' && !isDryRun) await established(cluster, all)
    output.print(`${name}: ${all.length} objects, ${changed === 0 ? 'nothing to change' : `${changed} ${isDryRun ? 'would change' : 'changed'}`}`)
    applied.push(...all)
  }
  return { objects: applied, leftOut }
}

const hints: Readonly<Record<string, string>> = {
  'gateway-classes': "; waypoints and ingresses need Gateway API's kinds: `sidestep upgrade --gateway-api-crds DIRECTORY` installs them",
  'pod-monitors': '; it comes with the Prometheus operator',
  'alerts': '; it comes with the Prometheus operator',
}

/** What changed, or would; undefined where nothing did. */
async function applyOne(cluster: Cluster, object: InstallObject, isDryRun: boolean): Promise<readonly string[] | undefined> {
  const before = await cluster.find(nameOf(object))
  try {
    const after = await cluster.apply(object, { isDryRun })
    if (before === undefined) return [`+ ${objectText(nameOf(object))}`]
    const lines = changes(before, after)
    return lines.length === 0 ? undefined : [`~ ${objectText(nameOf(object))}`, ...lines.map((line) => `    ${line}`)]
  } catch (error) {
    // Its namespace, or its kind, would have come first.
    if (isDryRun && before === undefined && isNotFound(error)) return [`+ ${objectText(nameOf(object))}`]
    throw new MeshError('COMMAND_FAILED', `${objectText(nameOf(object))} could not be applied: ${visible(error instanceof Error ? error.message : String(error))}`, { cause: error })
  }
}

/** A kind can be used once the server says so. */
async function established(cluster: Cluster, crds: readonly InstallObject[]): Promise<void> {
  const deadline = performance.now() + 30_000
  for (const crd of crds.filter(({ kind }) => kind === 'CustomResourceDefinition')) {
    for (;;) {
      const conditions = listOf(await cluster.find(nameOf(crd)), 'status', 'conditions')
      if (conditions.some((each) => textOf(each, 'type') === 'Established' && textOf(each, 'status') === 'True')) break
      if (performance.now() > deadline) throw new MeshError('COMMAND_FAILED', `the API server does not take up ${crd.metadata.name}`)
      await sleep(200)
    }
  }
}

/** Never over those that are there: others may rely on their version. */
async function bringGatewayApi(cluster: Cluster, directory: string, isDryRun: boolean, output: Output): Promise<void> {
  if (await cluster.typeOf({ apiVersion: 'gateway.networking.k8s.io/v1', kind: 'Gateway' })) return
  const objects = objectsBelow(directory)
  const crds = objects.filter((object) => object.kind === 'CustomResourceDefinition' && String(fieldOf(object, 'spec', 'group')).endsWith('gateway.networking.k8s.io'))
  if (crds.length === 0) throw new MeshError('BAD_CONFIG', `${directory} has no kinds of Gateway API`)
  if (!isDryRun) for (const crd of objects) await cluster.apply(crd)
  if (!isDryRun) await established(cluster, crds)
  output.print(`gateway-api: ${crds.length} kinds ${isDryRun ? 'would be installed' : 'installed'}`)
}

const nextSteps = `
Sidestep ${version} is installed. Next:
  kubectl label namespace NAMESPACE sidestep.dev/mesh=enabled    take a namespace into the mesh; its pods need no restart
  sidestep check --cluster                                       see what is not as it should be
  sidestep waypoint apply --cluster -n NAMESPACE --enroll-namespace
                                                                 let a waypoint look into its requests`

function seconds(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) < 1) throw new InvalidArgumentError('expected whole seconds')
  return Number(text)
}
