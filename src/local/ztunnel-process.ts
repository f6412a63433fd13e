// One node's ztunnel in the local mesh: its environment, its process, and the removal of what it pinned. What it captured stays
// captured while it is away.
import { askSocket } from '../core/ask-socket.ts'
import type { Logger } from '../core/log.ts'
import { ztunnelStateSchema } from '../model/ztunnel-state.ts'
import { underlayIps } from './addresses.ts'
import { runCommand } from './command.ts'
import type { StatePaths } from './state.ts'
import { ServingWatch } from './serving-watch.ts'
import { SupervisedProcess } from './supervised-process.ts'

/**
 * For a process that carries bytes. Each TLS record is a buffer outside of V8's heap; unless their bytes count as part of the heap, V8
 * collects all of it for each 64 MB of them: ten times a second, and the longer the more the ztunnel knows of the mesh. Megabytes.
 */
export const carryingFlags = ['--external-memory-accounted-in-global-limit', '--initial-old-space-size=128'] as const

export const controlPlanePort = 15_012
/** In its certificate; the address that nodes dial is the underlay's. */
export const controlPlaneName = 'sidestep-controlplane.sidestep-system.svc'

export interface ZtunnelOptions {
  readonly paths: StatePaths
  readonly node: string
  /** Network namespace of the node; its pid is the namespace's holder. */
  readonly netns: string
  readonly command: readonly string[]
  readonly hostPath: string
  /** Without one it passes everything through, as it did before there were identities. */
  readonly hasControlPlane: boolean
  /** Further variables, which win. */
  readonly environment?: Readonly<Record<string, string>>
  readonly logger: Logger
}

/** Environment by which a ztunnel knows its node; the same for the process and for its `cleanup`. */
export function ztunnelEnv(paths: StatePaths, node: string, netns: string, hostPath: string): Record<string, string> {
  return {
    PATH: hostPath,
    HOME: '/root',
    SIDESTEP_NODE: node,
    SIDESTEP_INSTANCE: `${paths.name}-${node}`,
    SIDESTEP_AGENT_SOCKET: paths.agentSocket(node),
    SIDESTEP_HOST_NETNS: netns,
    SIDESTEP_ADMIN_SOCKET: paths.adminSocket(node),
    SIDESTEP_STATE_DIRECTORY: paths.nodeState(node),
  }
}

/** How it finds the control plane. */
function controlPlaneEnv(paths: StatePaths, node: string): Record<string, string> {
  return {
    SIDESTEP_XDS_ADDRESS: `${underlayIps.v4}:${controlPlanePort}`,
    SIDESTEP_SERVER_NAME: controlPlaneName,
    SIDESTEP_TOKEN_FILE: paths.tokenFile(node),
    SIDESTEP_ROOTS_FILE: paths.rootsFile,
    SIDESTEP_CRL_FILE: paths.crlFile,
  }
}

export function startZtunnel(options: ZtunnelOptions): SupervisedProcess {
  const { paths, node, netns, command, hostPath, hasControlPlane, environment = {}, logger } = options
  const env = {
    ...ztunnelEnv(paths, node, netns, hostPath),
    ...(hasControlPlane ? controlPlaneEnv(paths, node) : { SIDESTEP_XDS_ADDRESS: 'none' }),
    ...environment,
  }
  return new SupervisedProcess({ paths, role: 'ztunnel', id: `ztunnel-${node}`, label: node, netns, command, env, logger })
}

/** Removes what a node's ztunnel pinned, whether it ended well or not. */
export async function cleanUpZtunnel(paths: StatePaths, node: string, netns: string, command: readonly string[], hostPath: string): Promise<string> {
  const result = await runCommand([...command, 'cleanup'], { env: ztunnelEnv(paths, node, netns, hostPath), timeoutMs: 20_000 })
  return result.code === 0 ? '' : `exited with ${result.code}: ${result.stderr.trim().slice(-1000)}`
}

/** Whether the ztunnel that answers there is that process, and ready to serve. */
export async function ztunnelIsReady(adminSocket: string, pid: number): Promise<boolean> {
  const asked = { who: 'ztunnel', code: 'AGENT_UNAVAILABLE', timeoutMs: 2_000 } as const
  try {
    const state = ztunnelStateSchema.safeParse(await askSocket(adminSocket, '/state', asked))
    if (!state.success || state.data.pid !== pid) return false
    await askSocket(adminSocket, '/ready', asked)
    return true
  } catch {
    // Not there yet, or not ready yet: the next look may find it.
    return false
  }
}

/** Looks for as long as the mesh is up whether the ztunnel that runs now is ready. */
export function watchZtunnel(adminSocket: string, ztunnel: SupervisedProcess, onChange: () => void): ServingWatch {
  return new ServingWatch({ pid: () => ztunnel.pid, isServing: (pid) => ztunnelIsReady(adminSocket, pid), onChange })
}
