// The connection to the node agent, which says which pods to capture: kept up with backoff, answered message by message.
// While the agent is away the pods stay as they are.
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { decodeLines, encodeLine } from '../core/ndjson.ts'
import { agentMessageSchema } from '../model/enrolment.ts'
import type { AgentMessage, AgentReply } from '../model/enrolment.ts'
import type { PodSet } from './pod-set.ts'

const maxLineBytes = 1 << 20
const firstRetryMs = 50
const maxRetryMs = 5_000

export class AgentClient {
  readonly #path: string
  readonly #pods: PodSet
  readonly #logger: Logger
  #socket: Socket | undefined
  #timer: NodeJS.Timeout | undefined
  #retryMs = firstRetryMs
  #isClosed = false
  #isSynced = false

  constructor(path: string, pods: PodSet, logger: Logger) {
    this.#path = path
    this.#pods = pods
    this.#logger = logger
  }

  /** Whether a snapshot was received over the standing connection. */
  get isSynced(): boolean {
    return this.#isSynced
  }

  start(): void {
    const socket = connect(this.#path)
    this.#socket = socket
    const named = new Set<string>()
    let work = Promise.resolve()
    const decode = decodeLines(
      maxLineBytes,
      (value) => {
        const parsed = agentMessageSchema.safeParse(value)
        if (!parsed.success) {
          this.#logger.warn({ error: parsed.error.message }, 'agent sent a message that does not parse')
          socket.destroy()
          return
        }
        work = work.then(async () => this.#answer(socket, await this.#handle(parsed.data, named)))
      },
      (error) => {
        this.#logger.warn({ error: error.message }, 'agent sent a line that does not parse')
        socket.destroy()
      },
    )
    socket.on('connect', () => (this.#retryMs = firstRetryMs))
    socket.on('data', decode)
    socket.on('error', (error) => this.#logger.debug({ error: error.message }, 'agent connection failed'))
    socket.on('close', () => this.#retry())
  }

  #answer(socket: Socket, reply: AgentReply): void {
    if (socket.writable) socket.write(encodeLine(reply))
  }

  async #handle(message: AgentMessage, named: Set<string>): Promise<AgentReply> {
    const { seq } = message
    try {
      switch (message.type) {
        case 'add':
          named.add(message.pod.uid)
          return { type: 'ack', seq, existing: await this.#pods.add(message.pod) }
        case 'delete':
          named.delete(message.uid)
          this.#pods.delete(message.uid)
          return { type: 'ack', seq }
        case 'keep':
          named.add(message.uid)
          return { type: 'ack', seq }
        case 'snapshot':
          this.#pods.prune(named, message.partial)
          this.#isSynced = true
          return { type: 'ack', seq }
        default:
          return message satisfies never
      }
    } catch (error) {
      this.#logger.warn({ error: describeError(error), message: message.type }, 'agent message failed')
      return { type: 'ack', seq, error: describeError(error).slice(0, 4_096) }
    }
  }

  #retry(): void {
    this.#isSynced = false
    if (this.#isClosed) return
    // Full jitter, so that many ztunnels do not come back at once.
    this.#timer = setTimeout(() => this.start(), Math.random() * this.#retryMs)
    this.#retryMs = Math.min(this.#retryMs * 2, maxRetryMs)
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#socket?.destroy()
  }
}
