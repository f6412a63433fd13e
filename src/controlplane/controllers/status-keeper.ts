// Keeps the statuses of everything that is read here: computes what each should say from what translation and the Gateway controller
// found, and has written what differs. All are computed anew after a change, and no more often than that is worth; what is right
// costs no request.
import type { Clock } from '../../core/clock.ts'
import { describeError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import type { GatewayRole } from '../../model/gateway-labels.ts'
import type { ManifestObject } from '../../model/manifest.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { ObjectFacts, PlaneView } from '../status.ts'
import { lateAfterMs, type CaptureBook, type LatePod } from './capture-book.ts'
import { supportedFeatures } from './features.ts'
import { roleOf } from './gateway-controller.ts'
import { classStatusChange, gatewayStatusChange, type GatewayState } from './gateway-status.ts'
import { namespaceStatusChange, policyStatusChange, serviceStatusChange, type NamespaceCapture } from './object-status.ts'
import { keyOf, observedId, type ObservedObject, type ObservedObjects } from './observed-objects.ts'
import { routeStatusChange } from './route-status.ts'
import type { StatusWriter } from './status-writer.ts'

type Json = Readonly<Record<string, unknown>>

const shortestPauseMs = 250
/** Of all time at most this part goes into computing. */
const share = 0.05
const sliceSize = 200
/** What is not settled yet is looked at again after this. */
const unsettledMs = 50
/** Pods come and go all the time; how many are captured is written no more often than this for a namespace. */
const namespacePauseMs = 5_000

export interface StatusKeeperOptions {
  readonly observed: ObservedObjects
  readonly view: () => PlaneView | undefined
  readonly pods: () => Iterable<RunningPod>
  readonly captures: CaptureBook
  readonly stateOf: (gateway: string) => GatewayState | undefined
  readonly writer: StatusWriter
  readonly clock: Clock
  readonly logger: Logger
  /** An object is not in force as written, and it did not say so before. */
  readonly onProblem: (object: ObservedObject, problems: readonly string[]) => void
  readonly onLatePod: (late: LatePod) => void
}

interface Look {
  readonly view: PlaneView
  readonly now: string
  readonly namespaces: ReadonlyMap<string, NamespaceCapture>
  readonly nowMs: number
}

export class StatusKeeper {
  readonly #options: StatusKeeperOptions
  /** Problems told, by id. */
  readonly #told = new Map<string, string>()
  readonly #namespaceWrites = new Map<string, number>()
  #cancelTimer: (() => void) | undefined
  #dueMs = Infinity
  #notBeforeMs = 0
  #isLooking = false
  #isClosed = false
  #looking: Promise<void> = Promise.resolve()

  constructor(options: StatusKeeperOptions) {
    this.#options = options
  }

  /** Something may be different: all is computed anew, `ms` from now at the earliest. */
  changed(ms = 0): void {
    if (this.#isClosed) return
    const { clock } = this.#options
    const dueMs = Math.max(clock.monotonicMs() + ms, this.#notBeforeMs)
    if (dueMs >= this.#dueMs) return
    this.#dueMs = dueMs
    if (this.#isLooking) return
    this.#cancelTimer?.()
    this.#cancelTimer = clock.after(dueMs - clock.monotonicMs(), () => this.#begin())
  }

  #begin(): void {
    this.#cancelTimer = undefined
    this.#dueMs = Infinity
    this.#isLooking = true
    const { clock, logger } = this.#options
    this.#looking = this.#look().catch((error: unknown) => {
      logger.error({ because: describeError(error) }, 'statuses could not be computed')
    }).then(() => {
      this.#isLooking = false
      const dueMs = Math.max(this.#dueMs, this.#notBeforeMs)
      this.#dueMs = Infinity
      if (dueMs !== Infinity) this.changed(dueMs - clock.monotonicMs())
    })
  }

  async #look(): Promise<void> {
    const { observed, clock, view: viewNow, captures, pods, onLatePod } = this.#options
    const startedMs = clock.monotonicMs()
    let view = viewNow()
    if (!view) return this.changed(unsettledMs)
    const { objects } = view
    const labels = new Map([...observed.ofKind('Namespace')].map(({ name }) => [name, objects.get(`Namespace ${name}`)?.metadata.labels ?? {}]))
    const { namespaces, late } = captures.look(pods(), labels, startedMs)
    for (const each of late) onLatePod(each)
    if ([...namespaces.values()].some(({ wanted, captured }) => captured < wanted)) this.changed(lateAfterMs / 4)
    let [computed, workMs, sliceMs] = [0, 0, startedMs]
    for (const object of observed.values()) {
      if (++computed % sliceSize === 0) {
        workMs += clock.monotonicMs() - sliceMs
        await new Promise((resolve) => { setImmediate(resolve) })
        sliceMs = clock.monotonicMs()
        // The world may have moved on; half translated it would be told wrong.
        view = viewNow()
      }
      if (this.#isClosed) return undefined
      if (!view) return this.changed(unsettledMs)
      this.#one(object, { view, now: isoSeconds(clock.nowMs()), namespaces, nowMs: clock.monotonicMs() })
    }
    workMs += clock.monotonicMs() - sliceMs
    for (const id of this.#told.keys()) if (!observed.get(id)) this.#told.delete(id)
    this.#notBeforeMs = clock.monotonicMs() + Math.max(shortestPauseMs, workMs / share)
    return undefined
  }

  #one(object: ObservedObject, look: Look): void {
    const { writer } = this.#options
    const facts = look.view.factsOf(keyOf(object))
    const change = this.#change(object, facts, look)
    const isWritten = change !== undefined && writer.write(object, change)
    if (!change) writer.forget(object)
    if (isWritten && object.type.kind === 'Namespace') this.#namespaceWrites.set(object.name, look.nowMs)
    this.#tell(object, facts, isWritten || !hasStatus.has(object.type.kind))
  }

  /** Who leads anew finds in the status what was told before. */
  #tell(object: ObservedObject, { problems }: ObjectFacts, isNew: boolean): void {
    const id = observedId(object)
    const said = problems.join('; ')
    if (this.#told.get(id) === said || (said === '' && !this.#told.has(id))) return
    if (said === '') this.#told.delete(id)
    else this.#told.set(id, said)
    if (said !== '' && isNew) this.#options.onProblem(object, problems)
  }

  #change(object: ObservedObject, facts: ObjectFacts, look: Look): Json | undefined {
    const { type: { kind, group }, namespace, name, generation, status, parentRefs = [], targetRefs = [] } = object
    const { view, now } = look
    switch (kind) {
      case 'Gateway': {
        const role = roleOf(object.gatewayClassName ?? '', view)
        const state = this.#options.stateOf(`${namespace}/${name}`) ?? (facts.isUnreadable ? { t: 'pending' as const } : undefined)
        return role && state && gatewayStatusChange({ generation, facts, state, isOpenToAnyClient: isOpenToAnyClient(view.objects.get(`Gateway ${namespace}/${name}`)), status, now })
      }
      case 'GatewayClass': {
        const role = roleOf(name, view)
        return role && classStatusChange({ generation, role, features: supportedFeatures, status, now })
      }
      case 'HTTPRoute':
      case 'GRPCRoute':
      case 'TCPRoute':
      case 'TLSRoute':
        return routeStatusChange({ namespace, generation, parentRefs, facts, roleOf: (there, gateway) => roleOfGateway(this.#options.observed, view, there, gateway), status, now })
      case 'Service': return serviceStatusChange({ waypoint: facts.waypoint, status, now })
      case 'Namespace': {
        const writtenMs = this.#namespaceWrites.get(name)
        if (writtenMs !== undefined && look.nowMs - writtenMs < namespacePauseMs) {
          this.changed(namespacePauseMs - (look.nowMs - writtenMs))
          return undefined
        }
        return namespaceStatusChange({ capture: look.namespaces.get(name), status, now })
      }
      default: return policyStatusChange({ group, namespace, generation, targetRefs, facts, status, now })
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#cancelTimer?.()
    await this.#looking
  }
}

/** Kinds whose status says that something is not in force. */
const hasStatus: ReadonlySet<string> = new Set([
  'Gateway', 'HTTPRoute', 'GRPCRoute', 'TCPRoute', 'TLSRoute', 'AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication', 'RateLimitPolicy', 'CachePolicy', 'BackendPolicy', 'AuthorizationProvider',
])

function roleOfGateway(observed: ObservedObjects, view: PlaneView, namespace: string, name: string): GatewayRole | undefined {
  const gateway = view.objects.get(`Gateway ${namespace}/${name}`)
  if (gateway?.kind === 'Gateway') return roleOf(gateway.spec.gatewayClassName, view)
  // One that cannot be read has a class all the same.
  for (const each of observed.ofKind('Gateway')) if (each.namespace === namespace && each.name === name) return roleOf(each.gatewayClassName ?? '', view)
  return undefined
}

function isOpenToAnyClient(gateway: ManifestObject | undefined): boolean {
  const frontend = gateway?.kind === 'Gateway' ? gateway.spec.tls?.frontend : undefined
  return frontend !== undefined && [frontend.default, ...frontend.perPort.map(({ tls }) => tls)].some(({ validation }) => validation?.mode === 'AllowInsecureFallback')
}

/** As Kubernetes writes times. */
function isoSeconds(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`
}
