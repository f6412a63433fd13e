// Around the tests on Kubernetes: builds what clusters are made of before the first of them, and removes their cluster after the last.
// The cluster itself comes up with the first test file that asks for it: until then it would only disturb the tests that run before.
import type { TestProject } from 'vitest/node'
import { appImage } from './app-image.ts'
import { binaries } from './binaries.ts'
import { clusterKeptFor, removeCluster } from './cluster.ts'
import { clusterImages } from './images.ts'
import { productImage } from './product-image.ts'
import { givenCluster } from './given-cluster.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** Process for which the shared cluster is. */
    keeper: number
    /** Archives that its nodes have. */
    images: readonly string[]
  }
}

export async function setup(project: TestProject): Promise<void> {
  project.provide('keeper', process.pid)
  project.provide('images', [])
  if (givenCluster() || process.env['SIDESTEP_CLUSTER'] !== undefined) return
  const say = (line: string): void => console.log(`[kube] ${line}`)
  await clusterImages(await binaries(say))
  project.provide('images', [await appImage(), await productImage(say)])
}

export async function teardown(): Promise<void> {
  await removeSharedCluster()
}

/** Also for others who look at the machine when all is over. */
export async function removeSharedCluster(): Promise<void> {
  const instance = clusterKeptFor(process.pid)
  if (instance !== undefined) await removeCluster(instance)
}
