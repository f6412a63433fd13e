// The command line's only way to a local mesh: HTTP on the daemon's unix socket. Answers are checked against the shapes
// in model/local-status.ts before anything relies on them.
import { request, type IncomingMessage } from 'node:http'
import type { z } from 'zod'
import { errorCodes, MeshError, type ErrorCode } from '../core/errors.ts'
import {
  apiErrorSchema, applyResultSchema, execPlanSchema, localApiSocket, localStatusSchema, runResultSchema,
  type ApplyResult, type ExecPlan, type ExecRequest, type LocalStatus, type RunRequest, type RunResult,
} from '../model/local-status.ts'

const maxAnswerBytes = 64 << 20

export interface PodName {
  readonly namespace: string
  readonly name: string
}

/** `shop/web` or, in namespace default, `web`. BAD_CONFIG otherwise. */
export function parsePodName(text: string): PodName {
  const parts = text.split('/')
  const [namespace = '', name = ''] = parts.length === 1 ? ['default', text] : parts
  if (parts.length > 2 || namespace === '' || name === '') {
    throw new MeshError('BAD_CONFIG', `${JSON.stringify(text)} is not a pod: write NAMESPACE/NAME`)
  }
  return { namespace, name }
}

export class ApiClient {
  readonly #mesh: string

  constructor(mesh: string) {
    this.#mesh = mesh
  }

  status(): Promise<LocalStatus> {
    return this.#json(localStatusSchema, 'GET', '/status')
  }

  execPlan(body: ExecRequest): Promise<ExecPlan> {
    return this.#json(execPlanSchema, 'POST', '/exec', body)
  }

  async run(body: RunRequest): Promise<void> {
    await drain(await this.#open('POST', '/run', body))
  }

  /** Resolves when the pod's containers have ended. */
  waitForEnd({ namespace, name }: PodName): Promise<RunResult> {
    return this.#json(runResultSchema, 'GET', `/wait?${new URLSearchParams({ namespace, name })}`)
  }

  async removePod({ namespace, name }: PodName): Promise<void> {
    await drain(await this.#open('DELETE', `/pods?${new URLSearchParams({ namespace, name })}`))
  }

  /** BAD_MANIFEST names the first mistake; nothing is applied then. */
  apply(manifest: string): Promise<ApplyResult> {
    return this.#json(applyResultSchema, 'POST', '/apply', { manifest })
  }

  /** `key` is `Kind namespace/name`. NOT_FOUND where it was not applied. */
  async unapply(key: string): Promise<void> {
    await drain(await this.#open('DELETE', `/applied?${new URLSearchParams({ key })}`))
  }

  async restartGateway({ namespace, name }: PodName): Promise<void> {
    await drain(await this.#open('POST', `/restart-gateway?${new URLSearchParams({ namespace, name })}`))
  }

  /** Resolves when the successor serves; the predecessor may go on for as long as its connections do. */
  async replaceZtunnel(node: string): Promise<void> {
    await drain(await this.#open('POST', `/replace-ztunnel?${new URLSearchParams({ node })}`))
  }

  /** The log as it comes; end the stream to stop following. */
  logs({ namespace, name }: PodName, options: { container?: string; follow?: boolean; tail?: number; wait?: boolean }): Promise<IncomingMessage> {
    const query = new URLSearchParams({ namespace, name })
    for (const [key, value] of Object.entries(options)) if (value !== undefined) query.set(key, String(value))
    return this.#open('GET', `/logs?${query}`)
  }

  async #json<T>(schema: z.ZodType<T>, method: string, path: string, body?: unknown): Promise<T> {
    const text = await drain(await this.#open(method, path, body))
    const parsed = schema.safeParse(parseJson(text))
    if (!parsed.success) throw new MeshError('BAD_MESSAGE', `the daemon answered ${method} ${path} in an unknown shape`, { source: 'upstream' })
    return parsed.data
  }

  #open(method: string, path: string, body?: unknown): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const sent = request({ socketPath: localApiSocket(this.#mesh), method, path, headers: { 'content-type': 'application/json' } })
      sent.on('error', (cause: NodeJS.ErrnoException) => {
        const isDown = cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED'
        reject(isDown
          ? new MeshError('NOT_FOUND', `no mesh named ${this.#mesh} is up; start one with \`sidestep up DIRECTORY\``, { cause })
          : new MeshError('CONNECT_FAILED', `the daemon of ${this.#mesh} does not answer: ${cause.message}`, { cause }))
      })
      sent.on('response', (response) => {
        if ((response.statusCode ?? 500) < 300) return resolve(response)
        readError(response).then(reject, reject)
      })
      sent.end(body === undefined ? undefined : JSON.stringify(body))
    })
  }
}

async function readError(response: IncomingMessage): Promise<MeshError> {
  const parsed = apiErrorSchema.safeParse(parseJson(await drain(response)))
  if (!parsed.success) return new MeshError('BAD_MESSAGE', `the daemon answered with status ${response.statusCode}`, { source: 'upstream' })
  const isKnown = (code: string): code is ErrorCode => (errorCodes as readonly string[]).includes(code)
  return new MeshError(isKnown(parsed.data.code) ? parsed.data.code : 'COMMAND_FAILED', parsed.data.message)
}

async function drain(response: IncomingMessage): Promise<string> {
  let text = ''
  response.setEncoding('utf8')
  for await (const part of response) {
    text += String(part)
    if (text.length > maxAnswerBytes) throw new MeshError('BAD_MESSAGE', 'the daemon answers without end', { source: 'upstream' })
  }
  return text
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // No shape fits undefined, so the caller reports it.
    return undefined
  }
}
