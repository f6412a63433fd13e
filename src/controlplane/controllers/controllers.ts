// What the leader among the control plane's replicas does: makes what Gateways become, writes statuses, and says in events what is
// wrong. Made anew by whoever leads next; everything it needs to know is in the API, so nothing is handed over.
import { systemClock, type Clock } from '../../core/clock.ts'
import type { Logger } from '../../core/log.ts'
import type { KubeApi } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import type { EventRecorder, KubeEvent, Regarding } from '../../kube/event-recorder.ts'
import { isEnrolled } from '../../model/enrolment.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import type { PlaneView } from '../status.ts'
import { CaptureBook } from './capture-book.ts'
import { GatewayController } from './gateway-controller.ts'
import type { GatewaySettings } from './gateway-run.ts'
import type { ObservedObject, ObservedObjects } from './observed-objects.ts'
import { StatusKeeper } from './status-keeper.ts'
import { StatusWriter } from './status-writer.ts'

export interface ControllersOptions {
  readonly api: KubeApi & WatchApi
  /** Fed by whoever watches, whether we lead or not. */
  readonly observed: ObservedObjects
  /** What is in force; undefined while something changed that is not translated yet. */
  readonly view: () => PlaneView | undefined
  readonly pods: () => Iterable<RunningPod>
  readonly events: Pick<EventRecorder, 'record'>
  readonly gateways: GatewaySettings
  readonly istioLabels: boolean
  readonly logger: Logger
  readonly clock?: Clock
}

interface Running {
  readonly gateways: GatewayController
  readonly keeper: StatusKeeper
  readonly writer: StatusWriter
}

export class Controllers {
  readonly #options: ControllersOptions
  #running: Running | undefined
  #stopping: Promise<void> = Promise.resolve()

  constructor(options: ControllersOptions) {
    this.#options = options
    options.observed.onChange(() => this.changed())
  }

  /** From now on we lead. */
  start(): void {
    if (this.#running) return
    const { api, observed, view, pods, gateways: settings, istioLabels, logger, clock = systemClock } = this.#options
    // Each needs the others only when something happens, which is after all are there.
    const writer = new StatusWriter({ api, observed, clock, logger, again: (ms) => keeper.changed(ms) })
    const gateways: GatewayController = new GatewayController({
      api, observed, view, settings, clock, logger, onState: () => keeper.changed(),
      onTrouble: (gateway, reason, note) => this.#record(gateway, { type: 'Warning', reason, action: 'Make', note }),
    })
    const keeper: StatusKeeper = new StatusKeeper({
      observed, view, pods, writer, clock, logger,
      captures: new CaptureBook({
        isEnrolled: (ofNamespace, ofPod) => isEnrolled(ofNamespace, ofPod, istioLabels),
        systemNamespace: settings.systemNamespace,
      }),
      stateOf: (id) => gateways.stateOf(id),
      onProblem: (object, problems) => this.#record(object, { type: 'Warning', reason: 'NotInForce', action: 'Translate', note: problems.join('; ') }),
      onLatePod: ({ pod: { uid, namespace, name, node }, why }) => {
        const regarding: Regarding = { apiVersion: 'v1', kind: 'Pod', metadata: { namespace, name, uid } }
        this.#options.events.record(regarding, { type: 'Warning', reason: 'NotCaptured', action: 'Capture', note: `is to be in the mesh and is not captured on ${node}: ${why}` })
      },
    })
    this.#running = { gateways, keeper, writer }
    gateways.start()
    keeper.changed()
    logger.info('leading: Gateways are made and statuses written here')
  }

  #record({ type: { group, version, kind }, namespace, name, uid }: ObservedObject, event: KubeEvent): void {
    const apiVersion = group === '' ? version : `${group}/${version}`
    this.#options.events.record({ apiVersion, kind, metadata: { name, uid, ...(namespace === '' ? {} : { namespace }) } }, event)
  }

  /** Something was translated, or a pod is different. Costs nothing while somebody else leads. */
  changed(): void {
    this.#running?.gateways.changed()
    this.#running?.keeper.changed()
  }

  /** Status requests sent since we lead; for tests and metrics. */
  get writes(): number {
    return this.#running?.writer.writes ?? 0
  }

  /** Ends what is under way, so that whoever leads next is alone. */
  stop(): Promise<void> {
    const running = this.#running
    this.#running = undefined
    if (running) {
      const { gateways, keeper, writer } = running
      this.#stopping = this.#stopping.then(async () => {
        await Promise.all([keeper.close(), gateways.close(), writer.close()])
      })
    }
    return this.#stopping
  }
}
