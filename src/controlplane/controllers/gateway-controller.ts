// Gateways of our classes become what serves them, and stop doing so. Looks at all of them whenever something changed, and makes those
// for which something did; what fails is tried again, later each time. Says of each what became of it; writes no status itself.
import { describeError } from '../../core/errors.ts'
import type { Clock } from '../../core/clock.ts'
import type { Logger } from '../../core/log.ts'
import type { KubeApi, KubeObject } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { gatewayRole, type GatewayRole } from '../../model/gateway-labels.ts'
import { gatewayObjects } from '../../model/gateway-objects.ts'
import type { GatewayClassManifest, GatewayManifest } from '../../model/manifest.ts'
import { NamedObjects } from '../kube/named-objects.ts'
import type { PlaneView } from '../status.ts'
import { GatewayMaker, isInvalid, type OwningGateway } from './gateway-maker.ts'
import { gatewayRun, type GatewaySettings } from './gateway-run.ts'
import type { GatewayState } from './gateway-status.ts'
import type { ObservedObject, ObservedObjects } from './observed-objects.ts'
import { OwnedObjects } from './owned-objects.ts'
import { applyOverrides, parseOverrides, type Overrides } from './overrides.ts'
import { Pauses } from './rate.ts'

export interface GatewayControllerOptions {
  readonly api: KubeApi & WatchApi
  readonly observed: ObservedObjects
  /** Undefined while something changed that is not translated yet. */
  readonly view: () => PlaneView | undefined
  readonly settings: GatewaySettings
  readonly clock: Clock
  readonly logger: Logger
  /** The state of some Gateway may be another now. */
  readonly onState: () => void
  readonly onTrouble: (gateway: ObservedObject, reason: string, note: string) => void
}

/** One after the other is enough: a Gateway takes a few requests, and there are few Gateways. */
const resyncMs = 600_000
const waitMs = 1_000
/** Somebody else's objects are not watched. */
const conflictMs = 10_000
/** Events of pods that become ready come in bursts. */
const quietMs = 100

/** What a Gateway is made of, as of the last look. */
interface Wanted {
  readonly gateway: GatewayManifest
  readonly role: GatewayRole
  readonly own: OwningGateway
  readonly overrides: readonly Overrides[]
  readonly problems: readonly string[]
}

export class GatewayController {
  readonly #options: GatewayControllerOptions
  readonly #owned: OwnedObjects
  readonly #maker: GatewayMaker
  readonly #named: NamedObjects
  /** Data of ConfigMaps, by object key. */
  readonly #parameters = new Map<string, unknown>()
  readonly #states = new Map<string, GatewayState>()
  readonly #pauses: Pauses
  readonly #ended = new AbortController()
  #cancelTimer: (() => void) | undefined
  #running: Promise<void> = Promise.resolve()
  #isRunning = false
  #isStale = false
  #isSynced = false

  constructor(options: GatewayControllerOptions) {
    this.#options = options
    const { api, logger, clock } = options
    this.#owned = new OwnedObjects(api, logger, () => this.changed())
    this.#maker = new GatewayMaker(api, this.#owned)
    this.#pauses = new Pauses(clock)
    this.#named = new NamedObjects({
      api, logger,
      put: (_kind, name, object: KubeObject) => {
        this.#parameters.set(`ConfigMap ${name}`, object['data'])
        this.changed()
      },
      remove: (_kind, name) => {
        this.#parameters.delete(`ConfigMap ${name}`)
        this.changed()
      },
    })
  }

  start(): void {
    this.#owned.start().then(() => {
      this.#isSynced = true
      this.changed()
    }, () => undefined) // Closed before all was read.
    this.#resync()
  }

  #resync(): void {
    this.#options.clock.after(resyncMs, () => {
      if (this.#ended.signal.aborted) return
      this.#maker.doubt()
      this.changed()
      this.#resync()
    })
  }

  /** Something that Gateways depend on may be different: they are looked at soon. */
  changed(): void {
    this.#isStale = true
    this.#later(quietMs)
  }

  #later(ms: number): void {
    if (this.#isRunning || this.#cancelTimer || this.#ended.signal.aborted) return
    this.#cancelTimer = this.#options.clock.after(ms, () => {
      this.#cancelTimer = undefined
      this.#isRunning = true
      this.#running = this.#all().catch((error: unknown) => {
        this.#options.logger.error({ because: describeError(error) }, 'gateways could not be looked at')
        return waitMs
      }).then((againMs) => {
        this.#isRunning = false
        if (this.#isStale) this.#later(quietMs)
        else if (againMs !== undefined) this.#later(againMs)
      })
    })
  }

  /** Milliseconds until the next look is due though nothing changes; undefined if none is. */
  async #all(): Promise<number | undefined> {
    const view = this.#isSynced ? this.#options.view() : undefined
    // Who is not told yet is told again.
    if (!view) return this.#isSynced ? quietMs : undefined
    this.#isStale = false
    const seen = new Set<string>()
    let againMs: number | undefined
    // Those that are new are read first, or a Gateway would be refused for a moment.
    await this.#named.want(this.#references(view))
    for (const observed of this.#options.observed.ofKind('Gateway')) {
      if (this.#ended.signal.aborted) return undefined
      const id = `${observed.namespace}/${observed.name}`
      seen.add(id)
      const leftMs = await this.#one(id, observed, view)
      if (leftMs !== undefined) againMs = Math.min(againMs ?? Infinity, leftMs)
    }
    for (const id of this.#states.keys()) if (!seen.has(id)) this.#states.delete(id)
    return againMs
  }

  /** Keys of the ConfigMaps that Gateways of ours and their classes name. */
  #references(view: PlaneView): ReadonlySet<string> {
    const keys = new Set<string>()
    for (const { namespace, name } of this.#options.observed.ofKind('Gateway')) {
      const gateway = view.objects.get(`Gateway ${namespace}/${name}`)
      if (gateway?.kind !== 'Gateway' || roleOf(gateway.spec.gatewayClassName, view) === undefined) continue
      for (const { key } of parametersOf(gateway, view)) if (key !== undefined) keys.add(key)
    }
    return keys
  }

  async #one(id: string, observed: ObservedObject, view: PlaneView): Promise<number | undefined> {
    const { uid, namespace, name, type: { group, version } } = observed
    const own: OwningGateway = { namespace, name, uid, apiVersion: `${group}/${version}` }
    const gateway = view.objects.get(`Gateway ${id}`)
    const role = gateway?.kind === 'Gateway' ? roleOf(gateway.spec.gatewayClassName, view) : undefined
    const leftMs = this.#pauses.left(id)
    if (leftMs > 0) return leftMs
    try {
      if (gateway?.kind !== 'Gateway' || role === undefined) {
        this.#set(id, undefined)
        // One that cannot be read keeps what it has.
        if (gateway?.kind === 'Gateway' && this.#maker.hasAny(own)) await this.#maker.remove(own, { signal: this.#ended.signal })
        return undefined
      }
      const state = await this.#make({ gateway, role, own, ...this.#overridesOf(gateway, view) })
      this.#set(id, state)
      if (state.t === 'refused' || state.t === 'failed') this.#options.onTrouble(observed, state.reason, state.message)
      this.#pauses.succeeded(id)
      return state.t === 'pending' ? waitMs : state.t === 'failed' ? conflictMs : undefined
    } catch (error) {
      if (this.#ended.signal.aborted) return undefined
      const message = describeError(error)
      this.#options.logger.warn({ gateway: id, because: message }, 'gateway could not be made')
      this.#options.onTrouble(observed, 'NotMade', message)
      this.#set(id, { t: 'failed', reason: 'NotMade', message: isInvalid(error) ? `the API server does not take it: ${error.message}` : message })
      return this.#pauses.failed(id)
    }
  }

  async #make({ gateway, role, own, overrides, problems }: Wanted): Promise<GatewayState> {
    const { settings } = this.#options
    if (problems.length > 0) return { t: 'refused', reason: 'InvalidParameters', message: problems.join('; ') }
    if (settings.image === '') return { t: 'failed', reason: 'NoImage', message: 'the control plane was not told which image the pods of Gateways have (SIDESTEP_PROXY_IMAGE)' }
    const expansion = gatewayObjects(gateway, role, gatewayRun(gateway.metadata, role, settings))
    if (!expansion.ok) return { t: 'refused', reason: 'Invalid', message: expansion.problems.join('; ') }
    const { objects, replicas } = applyOverrides(expansion, overrides)
    const result = await this.#maker.make(own, objects, replicas, { signal: this.#ended.signal })
    switch (result.t) {
      case 'conflict': return { t: 'failed', reason: 'ObjectConflict', message: `somebody else's ${result.objects.join(', ')} of this namespace has the name that is needed` }
      case 'wait': return { t: 'pending' }
      case 'made': return this.#madeState(`${own.namespace}/${own.name}`)
      default: return result satisfies never
    }
  }

  #madeState(id: string): GatewayState {
    const { replicas = 0, ready = 0, message = '' } = this.#owned.get('Deployment', id)?.deployment ?? {}
    const { addresses = [], hasAddress = false } = this.#owned.get('Service', id)?.service ?? {}
    return { t: 'made', ready, wanted: replicas, addresses, hasAddress, message }
  }

  #overridesOf(gateway: GatewayManifest, view: PlaneView): Pick<Wanted, 'overrides' | 'problems'> {
    const overrides: Overrides[] = []
    const problems: string[] = []
    for (const { what, key } of parametersOf(gateway, view)) {
      if (key === undefined) problems.push(`${what} must be a ConfigMap, with its namespace where a class names it`)
      else if (!this.#parameters.has(key)) problems.push(`${what}: there is no ${key}`)
      else {
        const read = parseOverrides(this.#parameters.get(key))
        overrides.push(read.overrides)
        problems.push(...read.problems.map((problem) => `${key}: ${problem}`))
      }
    }
    return { overrides, problems }
  }

  #set(id: string, state: GatewayState | undefined): void {
    const before = this.#states.get(id)
    if (state) this.#states.set(id, state)
    else this.#states.delete(id)
    if (JSON.stringify(before) !== JSON.stringify(state)) this.#options.onState()
  }

  /** By `namespace/name`; undefined before it was looked at: what its status says may be right. */
  stateOf(id: string): GatewayState | undefined {
    return this.#states.get(id)
  }

  async close(): Promise<void> {
    this.#ended.abort()
    this.#cancelTimer?.()
    this.#named.close()
    await Promise.all([this.#owned.close(), this.#running])
  }
}

/** Those of the class, then the Gateway's own; without a key where something else than a ConfigMap is named. */
function parametersOf(gateway: GatewayManifest, view: Pick<PlaneView, 'objects'>): readonly { readonly what: string; readonly key: string | undefined }[] {
  const ofClass = classOf(gateway.spec.gatewayClassName, view)?.spec.parametersRef
  const own = gateway.spec.infrastructure?.parametersRef
  return [
    ...(ofClass ? [{ what: 'parametersRef of the class', ref: ofClass, namespace: ofClass.namespace }] : []),
    ...(own ? [{ what: 'spec.infrastructure.parametersRef', ref: own, namespace: gateway.metadata.namespace }] : []),
  ].map(({ what, ref: { group, kind, name }, namespace }) => ({ what, key: group === '' && kind === 'ConfigMap' && namespace !== undefined ? `ConfigMap ${namespace}/${name}` : undefined }))
}

function classOf(name: string, { objects }: Pick<PlaneView, 'objects'>): GatewayClassManifest | undefined {
  const found = objects.get(`GatewayClass ${name}`)
  return found?.kind === 'GatewayClass' ? found : undefined
}

/** What Gateways of a class are here; undefined if somebody else serves them. */
export function roleOf(className: string, view: Pick<PlaneView, 'objects'>): GatewayRole | undefined {
  return gatewayRole(className, classOf(className, view)?.spec.controllerName)
}
