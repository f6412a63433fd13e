// Composes the control plane: objects and facts go in, get translated, and what changed is published to all nodes. Says what
// became of each object. It neither listens on a port nor signs anything; those take what they need of it.
import { describeError } from '../core/errors.ts'
import type { Identity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { policyKey } from '../model/authorization.ts'
import type { ControlPlaneStatus, ObjectStatus } from '../model/control-plane-status.ts'
import type { StateDelta } from '../model/workload-store.ts'
import { serviceKey } from '../model/workload.ts'
import type { NodeStatus } from '../xds/node-records.ts'
import type { StoreDelta, XdsStore } from '../xds/store.ts'
import type { ConfigSource } from './config-source.ts'
import type { PodSource } from './pod-source.ts'
import { Residents } from './residents.ts'
import { allProblems, controlPlaneStatus, controlPlaneStatusInSlices, objectStatus, planeView, type PlaneView, type StatusFacts } from './status.ts'
import { StatusFile } from './status-file.ts'
import { defaultSettings, type TranslateSettings } from './translate/settings.ts'
import { Translator } from './translate/translator.ts'
import type { WaypointDelta } from './translate/waypoint-book.ts'

/** Changes that come together are translated together; the server of the nodes waits longer. */
const quietMs = 10
const longestWaitMs = 100
/** What gateways are told is translated as a whole. Where that takes longer than this, ... */
const longTranslationMs = 50
/** ... at least so many times as long passes before it is done again, unless somebody waits for a waypoint. */
const pauseFactor = 2
/** How often what nodes said is looked at for the status file. */
const nodesLookMs = 1000

export interface ControlPlaneOptions {
  readonly settings?: Partial<TranslateSettings>
  /** Whether Istio's label says, as ours, who is in the mesh: so it must be for whoever captures pods. */
  readonly enrolsByIstioLabels?: boolean
  readonly config: ConfigSource
  readonly pods: PodSource
  readonly store: Pick<XdsStore, 'apply' | 'replace'>
  /** What nodes said, for the status. */
  readonly nodes?: () => readonly NodeStatus[]
  readonly statusFile?: string
  readonly logger: Logger
  /** After each translation that changed something, with how long it took. */
  readonly onPublished?: (delta: Required<StateDelta>, translateMs: number) => void
}

export class ControlPlane {
  readonly #options: ControlPlaneOptions
  readonly #logger: Logger
  readonly #translator: Translator
  readonly #residents: Residents
  readonly #file: StatusFile | undefined
  #isReady = false
  #isClosed = false
  /** Secrets and ConfigMaps that the source was asked for. */
  #wanted: ReadonlySet<string> = new Set()
  /** Some of those are being read, and nothing is published: gateways would be told for a moment that there is no certificate. */
  #isReading = false
  #heldBack: WaypointDelta | undefined
  #timer: NodeJS.Timeout | undefined
  #firstChangeMs: number | undefined
  #waypointsNotBeforeMs = 0
  #nodesTimer: NodeJS.Timeout | undefined
  #nodesSeen = ''
  #problemsLogged = new Set<string>()

  constructor(options: ControlPlaneOptions) {
    this.#options = options
    this.#logger = options.logger
    this.#translator = new Translator({ ...defaultSettings, ...options.settings })
    const labelsOf = (namespace: string): Readonly<Record<string, string>> => this.#translator.objects.get(`Namespace ${namespace}`)?.metadata.labels ?? {}
    this.#residents = new Residents(labelsOf, options.enrolsByIstioLabels)
    if (options.statusFile !== undefined) this.#file = new StatusFile(options.statusFile, () => controlPlaneStatusInSlices(this.#facts), this.#logger)
  }

  /** Reads everything there is and publishes it whole. Rejects with what the sources reject with. */
  async start(): Promise<void> {
    const { config, pods } = this.#options
    await pods.start({
      putPod: (pod) => {
        this.#residents.putPod(pod)
        this.#translator.putPod(pod)
        this.#changed()
      },
      removePod: (namespace, name) => {
        this.#residents.removePod(namespace, name)
        this.#translator.removePod(namespace, name)
        this.#changed()
      },
      setServiceIps: (namespace, name, ips) => {
        this.#translator.setServiceIps(namespace, name, ips)
        this.#changed()
      },
    })
    await config.start((changes) => {
      this.#translator.apply(changes)
      this.#changed()
    })
    this.#flushWaypoints(true)
    await this.#want()?.read
    this.#isReady = true
    this.#publish(true)
    this.#nodesTimer = setInterval(() => this.#lookAtNodes(), nodesLookMs)
    this.#nodesTimer.unref()
  }

  #changed(): void {
    if (!this.#isReady || this.#isClosed) return
    const now = performance.now()
    this.#firstChangeMs ??= now
    this.#publishIn(Math.max(0, Math.min(quietMs, this.#firstChangeMs + longestWaitMs - now)))
  }

  #publishIn(ms: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#publish(false), ms)
  }

  /** Asks the source for what gateways would use, if that is something else than before. */
  #want(): { readonly isNew: boolean; readonly read: Promise<void> } | undefined {
    const before = this.#wanted
    const wanted = this.#translator.wantedObjects
    const { config } = this.#options
    if (!config.want || (wanted.size === before.size && wanted.isSubsetOf(before))) return undefined
    this.#wanted = new Set(wanted)
    const read = config.want(this.#wanted).catch((error: unknown) => {
      this.#logger.error({ because: describeError(error) }, 'objects that gateways refer to cannot be read')
    })
    return { isNew: !wanted.isSubsetOf(before), read }
  }

  /** True while there is something to read first; then all that was held back is published. */
  #isHeldBack(): boolean {
    const asked = this.#want()
    if (!asked?.isNew) return false
    this.#isReading = true
    void asked.read.then(() => {
      this.#isReading = false
      if (!this.#isClosed) this.#publish(false)
    })
    return true
  }

  #publish(isWhole: boolean): void {
    this.#timer = undefined
    if (this.#isReading) return
    this.#firstChangeMs = undefined
    const startedMs = performance.now()
    this.#heldBack = together(this.#heldBack, this.#flushWaypoints(isWhole))
    if (!isWhole && this.#isHeldBack()) return
    const ofWaypoints = this.#heldBack
    this.#heldBack = undefined
    const delta = this.#translator.flush()
    const translateMs = performance.now() - startedMs
    const { workloads, services, policies, waypoints } = this.#translator
    const all: StoreDelta = { ...delta, ...ofWaypoints }
    if (isWhole) {
      this.#send((store) => store.replace({
        workloads: [...workloads.values()], services: [...services.values()], policies: [...policies.values()], waypoint: waypoints,
      }), all)
    } else if (hasChanges(all)) this.#send((store) => store.apply(all), all)
    this.#options.onPublished?.(delta, translateMs)
    this.#logProblems()
    this.#file?.changed()
    if (this.#translator.areWaypointsStale) this.#publishIn(Math.max(quietMs, this.#waypointsNotBeforeMs - performance.now()))
  }

  /** Nothing while it is too early. Whatever objects may do to it, nodes get the rest. */
  #flushWaypoints(isWhole: boolean): WaypointDelta | undefined {
    const startedMs = performance.now()
    const { areWaypointsStale, hasNewWaypoints } = this.#translator
    if (!areWaypointsStale || (!isWhole && !hasNewWaypoints && startedMs < this.#waypointsNotBeforeMs)) return undefined
    try {
      const changes = this.#translator.flushWaypoints()
      const endedMs = performance.now()
      const tookMs = endedMs - startedMs
      if (tookMs > longTranslationMs) this.#waypointsNotBeforeMs = endedMs + tookMs * pauseFactor
      return changes
    } catch (error) {
      this.#logger.error({ because: describeError(error) }, 'gateways keep what they have, because it cannot be translated')
      return undefined
    }
  }

  /** What cannot be published (an address that is none) must not keep the rest from the nodes. */
  #send(all: (store: Pick<XdsStore, 'apply' | 'replace'>) => void, delta: StoreDelta): void {
    const { store } = this.#options
    try {
      all(store)
      return
    } catch (error) {
      this.#logger.error({ because: describeError(error) }, 'changes cannot be published as a whole, trying each')
    }
    const { services = [], workloads = [], policies = [], waypoint = [], ...removals } = delta
    const each: readonly (readonly [name: string, part: StoreDelta])[] = [
      ['removals', removals],
      ...services.map((service) => [serviceKey(service), { services: [service] }] as const),
      ...workloads.map((workload) => [`${workload.uid} ${workload.ips.join()}`, { workloads: [workload] }] as const),
      ...policies.map((policy) => [policyKey(policy), { policies: [policy] }] as const),
      ...[...waypoint].map(([name, resource]) => [name, { waypoint: new Map([[name, resource]]) }] as const),
    ]
    for (const [resource, part] of each) {
      try {
        store.apply(part)
      } catch (error) {
        // Its name only: a gateway's resources hold private keys.
        this.#logger.error({ because: describeError(error), resource }, 'a resource cannot be published')
      }
    }
  }

  #logProblems(): void {
    const problems = new Map(allProblems({ translator: this.#translator, problems: this.#options.config.problems() })
      .map((problem) => [`${problem.file} ${problem.line} ${problem.object ?? ''} ${problem.reason}`, problem]))
    for (const [id, problem] of problems) {
      if (!this.#problemsLogged.has(id)) this.#logger.warn({ ...problem }, 'object is not in force as written')
    }
    this.#problemsLogged = new Set(problems.keys())
  }

  #lookAtNodes(): void {
    if (!this.#file) return
    const seen = JSON.stringify((this.#options.nodes?.() ?? []).map(({ node, disconnectedAtMs, types, nacks }) => [
      node, disconnectedAtMs === undefined, nacks.length,
      ...Object.values(types).map(({ acked, nacked, behind, waitingSinceMs }) => [acked, nacked, behind === 0, waitingSinceMs === undefined]),
    ]))
    if (seen === this.#nodesSeen) return
    this.#nodesSeen = seen
    this.#file.changed()
  }

  get #facts(): StatusFacts {
    const { config, nodes } = this.#options
    return { isReady: this.#isReady, translator: this.#translator, problems: config.problems(), notes: config.notes(), nodes: nodes?.() ?? [] }
  }

  status(): ControlPlaneStatus {
    return controlPlaneStatus(this.#facts)
  }

  /** `key` as objectKey gives it; undefined if nobody wrote such an object. */
  objectStatus(key: string): ObjectStatus | undefined {
    return objectStatus(key, this.#facts)
  }

  /** What is in force, for who writes statuses; undefined while something changed that is not translated yet. */
  view(): PlaneView | undefined {
    return this.#isReady && this.#timer === undefined && !this.#isReading ? planeView({ translator: this.#translator, problems: this.#options.config.problems() }) : undefined
  }

  /** For the certificate authority: true, or why the node must not have a certificate of that identity. */
  mayHave(node: string, identity: Identity): true | string {
    return this.#residents.mayHave(node, identity)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    clearInterval(this.#nodesTimer)
    this.#options.config.close()
    this.#options.pods.close()
    await this.#file?.close()
  }
}

/** What two changes, one after the other, come to. */
function together(first: WaypointDelta | undefined, second: WaypointDelta | undefined): WaypointDelta | undefined {
  if (!first || !second) return first ?? second
  const waypoint = new Map(first.waypoint)
  for (const name of second.removedWaypoint) waypoint.delete(name)
  for (const [name, resource] of second.waypoint) waypoint.set(name, resource)
  const removed = new Set([...first.removedWaypoint, ...second.removedWaypoint])
  for (const name of second.waypoint.keys()) removed.delete(name)
  return { waypoint, removedWaypoint: [...removed] }
}

function hasChanges(delta: StoreDelta): boolean {
  const parts: readonly (readonly unknown[] | ReadonlyMap<string, unknown>)[] = Object.values(delta)
  return parts.some((part) => ('size' in part ? part.size : part.length) > 0)
}
