// One question to an HTTP API on a unix socket, and its JSON. Bounded in time and size; whoever asks checks the answer's shape.
import { request } from 'node:http'
import { errorCodes, MeshError } from './errors.ts'
import type { ErrorCode } from './errors.ts'

export interface Asked {
  /** Who should answer, for the error: `control plane`. */
  readonly who: string
  /** The error where nobody does. */
  readonly code: ErrorCode
  readonly timeoutMs: number
  /** Sent as JSON by POST, where there is one; else it is a GET. */
  readonly body?: unknown
}

const maxAnswerBytes = 64 << 20

/** The JSON of a 200 answer; else the error that a program of ours answers with. `code` where there is none in time, BAD_MESSAGE where it is no JSON. */
export function askSocket(socketPath: string, path: string, { who, code, timeoutMs, body }: Asked): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const unavailable = (cause: Error): MeshError => new MeshError(code, `no ${who} answers on ${socketPath}: ${cause.message}`, { cause, source: 'upstream' })
    const method = body === undefined ? 'GET' : 'POST'
    const asked = request({ socketPath, path, method, agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxAnswerBytes) response.destroy(new Error('the answer is too long'))
        else chunks.push(chunk)
      })
      response.on('error', (error) => reject(unavailable(error)))
      response.on('end', () => {
        if (response.statusCode !== 200) return reject(refusalOf(chunks) ?? unavailable(new Error(`status ${response.statusCode}`)))
        try {
          resolve(JSON.parse(Buffer.concat(chunks).toString()))
        } catch (cause) {
          reject(new MeshError('BAD_MESSAGE', `${socketPath} answers, but not as a ${who} does`, { cause, source: 'upstream' }))
        }
      })
    })
    asked.on('error', (error) => reject(unavailable(error)))
    asked.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

/** Ours say in a refusal which error it is. */
function refusalOf(chunks: readonly Buffer[]): MeshError | undefined {
  try {
    const { code, message } = JSON.parse(Buffer.concat(chunks).toString()) as { readonly code?: unknown; readonly message?: unknown }
    const known = errorCodes.find((each) => each === code)
    return known && typeof message === 'string' ? new MeshError(known, message.slice(0, 1000), { source: 'upstream' }) : undefined
  } catch {
    // Somebody else's page; its status has to do.
    return undefined
  }
}
