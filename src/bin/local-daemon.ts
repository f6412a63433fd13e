// Runs one local mesh in this process, and starts such a process. Composition only: mesh, API, log, signals.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { pino } from 'pino'
import { z } from 'zod'
import type { LocalControl, UpOptions } from '../cli/up.ts'
import { describeError, errorCodes, MeshError, type ErrorCode } from '../core/errors.ts'
import { serveApi } from '../local/api.ts'
import { cleanupInstance } from '../local/cleanup.ts'
import { LogFile } from '../local/log-file.ts'
import { LocalMesh } from '../local/mesh.ts'

const stopGraceMs = 10_000
const hostPath = process.env['PATH'] ?? ''
const program = fileURLToPath(new URL('./sidestep.ts', import.meta.url))

/** What a daemon tells whoever started it, once. */
const firstWordSchema = z.union([
  z.object({ started: z.literal(true) }),
  z.object({ started: z.literal(false), code: z.string(), message: z.string() }),
])

/** A place for log lines that exists from the start; the file can only be made when the mesh has its directory. */
class DaemonLog {
  #file: LogFile | undefined
  #early: string[] = []

  write(line: string): void {
    if (this.#file) this.#file.append(Buffer.from(line))
    else this.#early.push(line)
  }

  open(path: string): void {
    this.#file = new LogFile(path)
    for (const line of this.#early.splice(0)) this.write(line)
  }
}

async function run(options: UpOptions, log: DaemonLog | undefined): Promise<void> {
  const logger = pino({ base: { mesh: options.name } }, log ?? process.stdout)
  const mesh = await LocalMesh.start({ ...options, hostPath, logger })
  log?.open(join(mesh.paths.logs, 'daemon.log'))
  const api = await serveApi(mesh, logger.child({ component: 'api' }))
  logger.info({ directory: options.directory }, 'mesh started')
  if (process.send) {
    process.send({ started: true })
    process.disconnect?.()
  }
  const signal = await new Promise<string>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => resolve(name))
    // The terminal may go; the mesh stays until it is told to end.
    process.on('SIGHUP', () => {})
  })
  logger.info({ signal }, 'mesh is ending')
  await api.close()
  await mesh.stop(stopGraceMs)
}

async function runAsDaemon(options: UpOptions): Promise<void> {
  try {
    await run(options, new DaemonLog())
  } catch (error) {
    if (!process.send) throw error
    const code: ErrorCode = error instanceof MeshError ? error.code : 'COMMAND_FAILED'
    const message = error instanceof MeshError ? error.message : describeError(error)
    await new Promise<void>((resolve) => void process.send?.({ started: false, code, message }, undefined, undefined, () => resolve()))
    process.exitCode = 1
  }
}

async function startDaemon(options: UpOptions): Promise<void> {
  const { directory, name, nodes, mesh, publish } = options
  const published = publish.flatMap(({ namespace, name: gateway, port, hostPort }) => ['--publish', `${namespace}/${gateway}${port === undefined ? '' : `:${port}`}=${hostPort}`])
  const args = [program, 'up', directory, '--name', name, '--nodes', String(nodes), ...(mesh ? [] : ['--no-mesh']), ...published, '--foreground']
  const child = spawn(process.execPath, args, { detached: true, stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  const word = await new Promise<unknown>((resolve, reject) => {
    child.once('message', resolve)
    child.once('error', reject)
    child.once('exit', (code) => reject(new MeshError('COMMAND_FAILED', `the daemon ended with ${code} before it was up`)))
  })
  child.unref()
  if (child.connected) child.disconnect()
  const parsed = firstWordSchema.parse(word)
  if (parsed.started) return
  const isKnown = (code: string): code is ErrorCode => (errorCodes as readonly string[]).includes(code)
  throw new MeshError(isKnown(parsed.code) ? parsed.code : 'COMMAND_FAILED', parsed.message)
}

export const localControl: LocalControl = {
  // An IPC channel means that startDaemon made this process, which then has nobody to print to.
  runForeground: (options) => (process.send ? runAsDaemon(options) : run(options, undefined)),
  startDaemon,
  cleanUp: (name) => cleanupInstance(name, hostPath),
}
