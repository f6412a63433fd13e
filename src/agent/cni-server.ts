// Where the CNI plugin asks: a unix socket, one line of JSON each way, then the end. It bounds who asks in number, length and
// time, and hands what was asked to the agent. It knows nothing of pods. The agent that was started last owns the path: a new
// socket is renamed over the old one, so there is no moment without one, and an agent that goes leaves the path alone.
import { chmod, mkdir, rename, rm, stat } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { dirname } from 'node:path'
import { z } from 'zod'
import { describeError, MeshError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { decodeLines, encodeLine } from '../core/ndjson.ts'
import { failureModeSchema, type FailureMode } from '../model/enrolment.ts'

const text = (max: number) => z.string().max(max)
const name = z.string().min(1).max(253)

/** What the plugin tells and asks. `netns` is empty, and `ips` too, in a DEL that comes late. */
export const cniRequestSchema = z.strictObject({
  v: z.literal(1),
  command: z.enum(['ADD', 'DEL', 'CHECK']),
  namespace: name,
  name,
  /** Empty where the runtime does not say it. */
  uid: text(253),
  containerId: text(1024),
  netns: text(4096),
  /** Without their prefix lengths, as the plugins before ours gave them. */
  ips: z.array(z.union([z.ipv4(), z.ipv6()])).max(16),
})
export type CniRequest = z.infer<typeof cniRequestSchema>

/**
 * `captured: false` says that the pod is none of the mesh. A refusal holds an ADD (the runtime tries again) unless `failureMode`
 * is `open`; where it is absent, the plugin goes by the namespace's in namespaces.json, and by `closed` where that has none.
 */
export type CniAnswer =
  | { readonly ok: true; readonly captured: boolean }
  | { readonly ok: false; readonly because: string; readonly failureMode?: FailureMode }

/** What the plugin reads an answer by: for its tests. */
export const cniAnswerSchema: z.ZodType<CniAnswer> = z.discriminatedUnion('ok', [
  z.strictObject({ ok: z.literal(true), captured: z.boolean() }),
  z.strictObject({ ok: z.literal(false), because: z.string().max(4096), failureMode: failureModeSchema.exactOptional() }),
])

/** `signal` says that nobody waits any more. A rejection is answered as a refusal. */
export type CniHandler = (request: CniRequest, signal: AbortSignal) => Promise<CniAnswer>

export interface CniServerOptions {
  readonly path: string
  readonly handle: CniHandler
  readonly logger: Logger
  /** How long a caller may take to say what it wants. */
  readonly requestTimeoutMs?: number
  /** How long the agent may take to answer; the plugin gives up before that on its own. */
  readonly answerTimeoutMs?: number
  /** How often it looks whether the path is still its own. */
  readonly watchMs?: number
}

const maxLineBytes = 64 << 10
const maxConnections = 512
const maxBecauseChars = 2000
/** So often in a row the one who took the path must not answer before it is taken back. */
const silentLooks = 3

export class CniServer {
  readonly #options: CniServerOptions
  readonly #servers = new Set<Server>()
  readonly #sockets = new Set<Socket>()
  #owned: { readonly dev: bigint; readonly ino: bigint } | undefined
  #silent = 0
  #made = 0
  #isClosed = false
  #watch: NodeJS.Timeout | undefined

  constructor(options: CniServerOptions) {
    this.#options = options
  }

  /** Serves, and owns the path from then on. Makes the directory. */
  async listen(): Promise<void> {
    await mkdir(dirname(this.#options.path), { recursive: true, mode: 0o755 })
    await this.#take()
    const watch = (): void => {
      const look = (): void => void this.#look().finally(() => !this.#isClosed && watch())
      this.#watch = setTimeout(look, this.#options.watchMs ?? 1000).unref()
    }
    watch()
  }

  /** Whether the path is this server's: false after a newer agent took it. */
  async isOwner(): Promise<boolean> {
    const found = await identityOf(this.#options.path)
    return found !== undefined && this.#owned !== undefined && found.ino === this.#owned.ino && found.dev === this.#owned.dev
  }

  /** Ends; the path stays, because by now it may be somebody else's. Whoever finds nobody behind it goes by namespaces.json. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#watch)
    for (const socket of this.#sockets) socket.destroy()
    await Promise.all([...this.#servers].map((server) => new Promise<void>((resolve) => server.close(() => resolve()))))
  }

  async #take(): Promise<void> {
    const { path } = this.#options
    const made = `${path}.${process.pid}.${++this.#made}`
    await rm(made, { force: true })
    const server = createServer((socket) => this.#serve(socket))
    server.maxConnections = maxConnections
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => reject(new MeshError('SYSCALL_FAILED', `cannot listen on ${made}: ${cause.message}`, { cause })))
      server.listen(made, resolve)
    })
    server.on('error', (error) => this.#options.logger.warn({ because: error.message }, 'the socket of the CNI plugin failed'))
    this.#servers.add(server)
    await chmod(made, 0o600)
    this.#owned = await identityOf(made)
    await rename(made, path)
    this.#silent = 0
  }

  /** An agent that took the path and died, while this one goes on, would leave the plugin without an answer. */
  async #look(): Promise<void> {
    try {
      if (await this.isOwner()) this.#silent = 0
      else if (await answers(this.#options.path)) this.#silent = 0
      else if (++this.#silent >= silentLooks && !this.#isClosed) {
        this.#options.logger.warn({ path: this.#options.path }, 'nobody answers on the socket of the CNI plugin: taking it back')
        await this.#take()
      }
    } catch (error) {
      this.#options.logger.warn({ because: describeError(error) }, 'the socket of the CNI plugin cannot be looked after')
    }
  }

  #serve(socket: Socket): void {
    const { handle, logger, requestTimeoutMs = 5000, answerTimeoutMs = 60_000 } = this.#options
    const gone = new AbortController()
    let isAsked = false
    this.#sockets.add(socket)
    socket.on('error', () => {
      // The one who asks has gone: 'close' follows.
    })
    socket.on('close', () => {
      clearTimeout(timer)
      this.#sockets.delete(socket)
      gone.abort()
    })
    const answer = (value: CniAnswer): void => {
      if (!socket.destroyed && !socket.writableEnded) socket.end(encodeLine(value))
    }
    let timer = setTimeout(() => socket.destroy(), requestTimeoutMs)

    const ask = async (value: unknown): Promise<void> => {
      if (isAsked) return void socket.destroy()
      isAsked = true
      clearTimeout(timer)
      timer = setTimeout(() => {
        answer(refusal(`the agent did not decide within ${answerTimeoutMs} ms`))
        gone.abort()
      }, answerTimeoutMs)
      const parsed = cniRequestSchema.safeParse(value)
      if (!parsed.success) return answer(refusal(`the agent does not understand the plugin: ${z.prettifyError(parsed.error)}`))
      const { command, namespace, name } = parsed.data
      try {
        const decided = await handle(parsed.data, gone.signal)
        answer(decided.ok ? decided : { ...decided, because: oneLine(decided.because) })
      } catch (error) {
        const facts = { 'cni.command': command, 'pod.namespace': namespace, 'pod.name': name, because: describeError(error) }
        logger.warn(facts, 'could not answer the CNI plugin')
        answer(refusal(describeError(error)))
      }
    }
    const decode = decodeLines(maxLineBytes, (value) => void ask(value), (error) => {
      answer(refusal(error.message))
      socket.destroySoon()
    })
    socket.on('data', (chunk: Buffer) => decode(chunk))
  }
}

function refusal(because: string): CniAnswer {
  return { ok: false, because: oneLine(because) }
}

function oneLine(because: string): string {
  return because.replaceAll(/\s+/g, ' ').slice(0, maxBecauseChars)
}

async function identityOf(path: string): Promise<{ dev: bigint; ino: bigint } | undefined> {
  try {
    const { dev, ino } = await stat(path, { bigint: true })
    return { dev, ino }
  } catch {
    // Whatever stands in the way of looking at it, it is not ours to rely on.
    return undefined
  }
}

/** Whether somebody accepts there. */
export function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    const end = (isThere: boolean) => (): void => {
      socket.destroy()
      resolve(isThere)
    }
    socket.once('connect', end(true))
    socket.once('error', end(false))
  })
}
