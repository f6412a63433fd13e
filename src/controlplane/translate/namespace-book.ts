// What a Namespace says for everything in it: where its workloads may connect outside the mesh, and which endpoints its
// services prefer. What a root namespace says of egress is the default of the mesh, as with policies.
import { egressLabel, egressSetting, type EgressSetting } from '../../model/egress.ts'
import { objectKey, type NamespaceManifest } from '../../model/manifest.ts'
import { noRemarks, type Remarks, type TranslateSettings } from './settings.ts'
import { annotatedDistribution, trafficDistributionProblem, type TrafficDistribution } from './traffic-distribution.ts'

export interface NamespaceListener {
  /** Workloads of this namespace (of every one without) may have another egress setting now. */
  egress(namespace: string | undefined): void
  /** Services of this namespace may prefer other endpoints now. */
  distribution(namespace: string): void
  remarks(objectKey: string, remarks: Remarks): void
}

interface Said {
  readonly egress: EgressSetting | undefined
  readonly distribution: TrafficDistribution | undefined
}

const nothing: Said = { egress: undefined, distribution: undefined }

export class NamespaceBook {
  readonly #settings: TranslateSettings
  readonly #listener: NamespaceListener
  readonly #said = new Map<string, Said>()

  constructor(settings: TranslateSettings, listener: NamespaceListener) {
    this.#settings = settings
    this.#listener = listener
  }

  put(object: NamespaceManifest): void {
    const { name, labels, annotations } = object.metadata
    this.#set(name, { egress: egressSetting(labels), distribution: annotatedDistribution(annotations) })
    this.#listener.remarks(objectKey(object), { problems: problemsOf(object), notes: [] })
  }

  remove(object: NamespaceManifest): void {
    this.#set(object.metadata.name, nothing)
    this.#listener.remarks(objectKey(object), noRemarks)
  }

  #set(name: string, said: Said): void {
    const before = this.#said.get(name) ?? nothing
    const meshBefore = this.#meshEgress()
    if (said.egress === undefined && said.distribution === undefined) this.#said.delete(name)
    else this.#said.set(name, said)
    if (this.#meshEgress() !== meshBefore) this.#listener.egress(undefined)
    else if (said.egress !== before.egress) this.#listener.egress(name)
    if (said.distribution !== before.distribution) this.#listener.distribution(name)
  }

  /** Of the root namespaces, the first that says something. */
  #meshEgress(): EgressSetting | undefined {
    for (const root of this.#settings.rootNamespaces) {
      const egress = this.#said.get(root)?.egress
      if (egress !== undefined) return egress
    }
    return undefined
  }

  /** What the namespace says, else the mesh; undefined if neither does. */
  egressOf(namespace: string): EgressSetting | undefined {
    return this.#said.get(namespace)?.egress ?? this.#meshEgress()
  }

  distributionOf(namespace: string): TrafficDistribution | undefined {
    return this.#said.get(namespace)?.distribution
  }
}

function problemsOf({ metadata: { labels, annotations } }: NamespaceManifest): string[] {
  const problems: string[] = []
  if (egressSetting(labels) === 'unreadable') {
    const text = JSON.stringify(labels[egressLabel]?.slice(0, 63) ?? '')
    problems.push(`the label ${egressLabel} is ${text}, which is none of allow, audit and deny: nothing may leave the mesh from here`)
  }
  const distribution = trafficDistributionProblem(annotations)
  if (distribution !== undefined) problems.push(distribution)
  return problems
}
