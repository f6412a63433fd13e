// Where an instance keeps its state: /run/sidestep/NAME (0700), and who may hold it: a lock that the kernel frees when
// its holder dies. Knows file names, and nothing of what is in them.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { localApiSocket, localControlPlaneSocket, localStateRoot } from '../model/local-status.ts'
import { processIdentitySchema } from './process-identity.ts'

export const stateRoot = localStateRoot
// Short, so that socket paths below it stay within the 107 bytes that the kernel allows.
const namePattern = /^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$/

export interface StatePaths {
  readonly name: string
  readonly root: string
  readonly apiSocket: string
  readonly daemon: string
  readonly processes: string
  readonly pods: string
  readonly logs: string
  /** On which the control plane hears what runs. */
  readonly factsSocket: string
  /** What was applied by hand, as files for the control plane. */
  readonly applied: string
  /** The CA, the key of the tokens, and the control plane's own socket. */
  readonly controlPlane: string
  readonly controlPlaneSocket: string
  /** What the control plane gives to all ztunnels: roots and revocations. */
  readonly trust: string
  readonly rootsFile: string
  readonly crlFile: string
  readonly tokens: string
  tokenFile(node: string): string
  /** Directory of one pod's own token, for pods that call the control plane themselves. */
  podToken(namespace: string, name: string): string
  /** What such a pod keeps over restarts of its process. */
  podState(uid: string): string
  /** What all pods of one Gateway share: the keys of clients' sessions. `id` is its `namespace/name`. */
  gatewayState(id: string): string
  /** What a ztunnel keeps over its restarts. */
  nodeState(node: string): string
  agentSocket(node: string): string
  adminSocket(node: string): string
}

/** Paths of an instance. BAD_CONFIG if the name is not a short DNS label. Creates nothing. */
export function statePaths(name: string): StatePaths {
  if (!namePattern.test(name)) {
    throw new MeshError('BAD_CONFIG', `mesh name ${JSON.stringify(name)} must be at most 32 lower-case letters, digits and dashes`)
  }
  const root = join(stateRoot, name)
  return {
    name,
    root,
    apiSocket: localApiSocket(name),
    daemon: join(root, 'daemon.json'),
    processes: join(root, 'processes'),
    pods: join(root, 'pods'),
    logs: join(root, 'logs'),
    factsSocket: join(root, 'facts.sock'),
    applied: join(root, 'applied'),
    controlPlane: join(root, 'controlplane'),
    controlPlaneSocket: localControlPlaneSocket(name),
    trust: join(root, 'trust'),
    rootsFile: join(root, 'trust', 'roots.pem'),
    crlFile: join(root, 'trust', 'crl.pem'),
    tokens: join(root, 'tokens'),
    tokenFile: (node) => join(root, 'tokens', `${node}.token`),
    podToken: (namespace, pod) => join(root, 'tokens', 'pods', namespace, pod),
    podState: (uid) => join(root, 'pods', uid, 'state'),
    gatewayState: (id) => join(root, 'gateways', id),
    nodeState: (node) => join(root, 'nodes', node),
    agentSocket: (node) => join(root, `${node}-agent.sock`),
    adminSocket: (node) => join(root, `${node}-ztunnel.sock`),
  }
}

export function makeStateDirectories(paths: StatePaths): void {
  const { root, processes, pods, logs, applied, controlPlane, trust, tokens } = paths
  for (const path of [root, processes, pods, logs, applied, controlPlane, trust, tokens]) mkdirSync(path, { recursive: true, mode: 0o700 })
}

/** Removes the instance's directory, and the common root if it was the last. */
export function removeState(paths: StatePaths): void {
  rmSync(paths.root, { recursive: true, force: true })
  try {
    if (readdirSync(stateRoot).length === 0) rmSync(stateRoot, { recursive: true })
  } catch {
    // Another instance removed it, or is just making its own: both are fine.
  }
}

/** Who runs an instance, and what cleaning up after it takes. */
export const daemonRecordSchema = z.object({
  process: processIdentitySchema,
  nodes: z.array(z.string()),
  /** The ztunnel's command line, empty without a mesh. */
  ztunnel: z.array(z.string()),
})
export type DaemonRecord = z.infer<typeof daemonRecordSchema>

/** One process made for the instance; `namespaces` says that killing it frees links, too. */
export const processRecordSchema = z.object({
  identity: processIdentitySchema,
  role: z.enum(['pod', 'node', 'underlay', 'ztunnel', 'controlplane']),
  label: z.string(),
})
export type ProcessRecord = z.infer<typeof processRecordSchema>

/** Written whole or not at all: a reader never sees half a file. */
export function writeRecord(path: string, value: DaemonRecord | ProcessRecord): void {
  writeFileSync(`${path}.tmp`, JSON.stringify(value), { mode: 0o600 })
  renameSync(`${path}.tmp`, path)
}

export function readDaemonRecord(paths: StatePaths): DaemonRecord | undefined {
  return readRecord(paths.daemon, daemonRecordSchema)
}

export function readProcessRecords(paths: StatePaths): ProcessRecord[] {
  let names: string[]
  try {
    names = readdirSync(paths.processes)
  } catch {
    // Never started, or already cleaned.
    return []
  }
  return names
    .filter((name) => name.endsWith('.json'))
    .flatMap((name) => readRecord(join(paths.processes, name), processRecordSchema) ?? [])
}

function readRecord<T>(path: string, schema: z.ZodType<T>): T | undefined {
  try {
    const parsed = schema.safeParse(JSON.parse(readFileSync(path, 'utf8')))
    return parsed.success ? parsed.data : undefined
  } catch {
    // Missing or unreadable: there is nothing we may rely on, so there is nothing.
    return undefined
  }
}

export interface InstanceLock {
  release(): Promise<void>
}

/**
 * Takes the instance for this process: an abstract socket, which dies with its holder and leaves no file behind.
 * ALREADY_RUNNING if another process has it.
 */
export function lockInstance(name: string): Promise<InstanceLock> {
  const server = createServer((socket) => socket.destroy())
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      reject(
        cause.code === 'EADDRINUSE'
          ? new MeshError('ALREADY_RUNNING', `a mesh named ${name} is running, starting or stopping`)
          : new MeshError('SYSCALL_FAILED', `cannot lock the mesh ${name}: ${cause.message}`, { cause }),
      )
    })
    server.listen(`\0sidestep-local-${name}`, () => {
      server.unref()
      resolve({ release: () => new Promise((done) => server.close(() => done())) })
    })
  })
}
