// The control plane of a local mesh: a process in the underlay's namespace, which every node reaches, started again when it ends.
// It is asked over its admin socket how it is; nothing of it runs in the daemon.
import { fileURLToPath } from 'node:url'
import { askSocket } from '../core/ask-socket.ts'
import { MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { controlPlaneReportSchema, type ControlPlaneReport } from '../model/control-plane-status.ts'
import type { LocalControlPlane } from '../model/local-status.ts'
import { underlayIps } from './addresses.ts'
import { ServingWatch } from './serving-watch.ts'
import type { StatePaths } from './state.ts'
import { SupervisedProcess } from './supervised-process.ts'
import { controlPlaneName, controlPlanePort } from './ztunnel-process.ts'

const program = fileURLToPath(new URL('../bin/controlplane.ts', import.meta.url))
const answerMs = 2000

export interface ControlPlaneProcessOptions {
  readonly paths: StatePaths
  /** Of the underlay. */
  readonly netns: string
  readonly nodes: readonly string[]
  /** What the user gave; absolute. */
  readonly directory: string | undefined
  readonly hostPath: string
  /** Further variables, which win. */
  readonly environment?: Readonly<Record<string, string>>
  readonly logger: Logger
  /** After it became ready, or no longer is. */
  readonly onChange: () => void
}

export class ControlPlaneProcess {
  readonly #process: SupervisedProcess
  readonly #socket: string
  readonly #watch: ServingWatch

  constructor(options: ControlPlaneProcessOptions) {
    const { paths, netns, logger, onChange } = options
    this.#socket = paths.controlPlaneSocket
    this.#process = new SupervisedProcess({
      paths, role: 'controlplane', id: 'controlplane', label: 'controlplane', netns, logger, onChange,
      command: [process.execPath, program], env: environmentOf(options),
    })
    this.#watch = new ServingWatch({ pid: () => this.pid, isServing: () => this.#isServing(), onChange })
  }

  /** Undefined between two runs. */
  get pid(): number | undefined {
    return this.#process.pid
  }

  /** The process that runs now serves, as far as was seen. */
  get isReady(): boolean {
    return this.#watch.isServing
  }

  async #isServing(): Promise<boolean> {
    try {
      await ask(this.#socket, '/ready')
      return true
    } catch {
      // Not there yet, or not ready yet: the next look may find it.
      return false
    }
  }

  /** What it says of itself. CONTROL_PLANE_UNAVAILABLE if it does not answer, BAD_MESSAGE if it is not a control plane's answer. */
  async report(): Promise<ControlPlaneReport> {
    const parsed = controlPlaneReportSchema.safeParse(await ask(this.#socket, '/status'))
    if (!parsed.success) throw new MeshError('BAD_MESSAGE', 'the control plane answers in an unknown shape', { source: 'upstream' })
    return parsed.data
  }

  /** For `sidestep status`: what the daemon knows, and what the control plane says if it answers. */
  async status(): Promise<LocalControlPlane> {
    try {
      return { ...this.summary(), report: shorten(await this.report()) }
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return this.summary()
    }
  }

  summary(): LocalControlPlane {
    return { state: this.isReady ? 'ready' : 'starting', ...(this.pid !== undefined && { pid: this.pid }) }
  }

  async stop(): Promise<void> {
    this.#watch.stop()
    await this.#process.stop()
  }
}

function environmentOf({ paths, nodes, directory, hostPath, environment = {} }: ControlPlaneProcessOptions): Record<string, string> {
  return {
    PATH: hostPath,
    HOME: '/root',
    SIDESTEP_LISTEN_ADDRESS: `[::]:${controlPlanePort}`,
    SIDESTEP_ADMIN_SOCKET: paths.controlPlaneSocket,
    SIDESTEP_PODS_SOCKET: paths.factsSocket,
    ...(directory !== undefined && { SIDESTEP_CONFIG_DIRECTORY: directory }),
    SIDESTEP_APPLIED_DIRECTORY: paths.applied,
    SIDESTEP_CA_DIRECTORY: `${paths.controlPlane}/ca`,
    SIDESTEP_TOKEN_KEY_FILE: `${paths.controlPlane}/token.key`,
    SIDESTEP_STATUS_FILE: `${paths.controlPlane}/status.json`,
    SIDESTEP_TOKEN_DIRECTORY: paths.tokens,
    SIDESTEP_NODES: nodes.join(','),
    SIDESTEP_ROOTS_FILE: paths.rootsFile,
    SIDESTEP_CRL_FILE: paths.crlFile,
    SIDESTEP_SERVER_NAMES: [controlPlaneName, underlayIps.v4, underlayIps.v6].join(','),
    ...environment,
  }
}

function shorten(report: ControlPlaneReport): NonNullable<LocalControlPlane['report']> {
  const { podsConnected, workloads, services, policies, nodes, ca, problems } = report
  const refused = report.objects.filter(({ accepted }) => !accepted)
    .map(({ object, file, line, problems: reasons }) => ({ object, file, line, reasons }))
  return { podsConnected, workloads, services, policies, nodes, ca, problems, refused }
}

function ask(socketPath: string, path: string): Promise<unknown> {
  return askSocket(socketPath, path, { who: 'control plane', code: 'CONTROL_PLANE_UNAVAILABLE', timeoutMs: answerMs })
}
