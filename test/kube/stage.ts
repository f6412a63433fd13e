// Where the tests on Kubernetes play: one cluster for all test files, in which each has namespaces of its own; or the user's cluster,
// without what needs its machines. Sidestep is installed and removed by its command line, as users do it.
import { join } from 'node:path'
import { inject } from 'vitest'
import { checkout } from '../../deploy/image/contents.ts'
import type { CommandResult } from '../../src/local/command.ts'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { systemNamespace } from '../../src/model/kubernetes-names.ts'
import { appReference } from './app-image.ts'
import { Cluster, clusterKeptFor } from './cluster.ts'
import { gatewayApiCrds } from './gateway-api.ts'
import { givenCluster } from './given-cluster.ts'
import { Kubectl } from './kubectl.ts'
import type { productTags } from './product-image.ts'
import { productRepository } from './product-image.ts'

const installTimeoutMs = 300_000

export interface Stage {
  readonly kube: Kubectl
  /** Its machines; undefined on a cluster of the user's. */
  readonly cluster: Cluster | undefined
  /** Of the test applications. */
  readonly appImage: string
  readonly repository: string
}

/** The command line, for what asks no cluster. */
export const sidestepProgram = [process.execPath, join(checkout, 'src/bin/sidestep.ts')] as const

let opened: Promise<Stage> | undefined

/** The cluster, which comes up with the first test file that asks. */
export function stage(): Promise<Stage> {
  opened ??= open()
  return opened
}

async function open(): Promise<Stage> {
  const given = givenCluster()
  if (given) {
    const kube = new Kubectl('kubectl', given.kubeconfig)
    return { kube, cluster: undefined, appImage: `${given.images}/apps:1`, repository: `${given.images}/sidestep` }
  }
  // One that somebody has up by hand (`npm run cluster`), so that a test that is being written need not wait for its own.
  const byHand = process.env['SIDESTEP_CLUSTER']
  if (byHand !== undefined) {
    const cluster = await Cluster.open(Number(byHand))
    return { kube: cluster, cluster, appImage: appReference, repository: productRepository }
  }
  const keeper = inject('keeper')
  const instance = clusterKeptFor(keeper)
  const say = (line: string): void => console.log(`[kube] ${line}`)
  const cluster = instance === undefined
    ? await Cluster.up({ keeper, images: inject('images'), say })
    : await Cluster.open(instance)
  return { kube: cluster, cluster, appImage: appReference, repository: productRepository }
}

/** `sidestep ARGS` with the cluster as its own. */
export async function sidestep(args: readonly string[], timeoutMs = installTimeoutMs): Promise<CommandResult> {
  return runCommand(await sidestepCommand(args), { timeoutMs })
}

/** Standard output; COMMAND_FAILED with what it said if it fails. */
export async function mustSidestep(args: readonly string[], timeoutMs = installTimeoutMs): Promise<string> {
  return mustRun(await sidestepCommand(args), { timeoutMs })
}

async function sidestepCommand(args: readonly string[]): Promise<string[]> {
  const { kube } = await stage()
  return [...sidestepProgram, ...args, '--kubeconfig', kube.kubeconfig]
}

/** What every installation on the stage is told. */
export async function installArguments(tag: (typeof productTags)[number] = 'one'): Promise<string[]> {
  const { repository } = await stage()
  return ['--set', `image.repository=${repository}`, '--set', `image.tag=${tag}`, '--gateway-api-crds', await gatewayApiCrds()]
}

/** Installs Sidestep unless it is there. */
export async function installed(): Promise<Stage> {
  const there = await stage()
  const found = await there.kube.tryKubectl(['get', 'daemonset', '-n', systemNamespace, 'sidestep-ztunnel'])
  if (found.code !== 0) await mustSidestep(['install', ...await installArguments()])
  return there
}

let namespaces = 0

/** A namespace that no other test has, with these labels. */
export async function newNamespace(name: string, labels: Readonly<Record<string, string>> = {}): Promise<string> {
  const { kube } = await stage()
  const full = `${name}-${process.pid.toString(36)}${++namespaces}`
  await kube.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: full, labels } })
  return full
}

export const inMesh = { 'sidestep.dev/mesh': 'enabled' } as const
