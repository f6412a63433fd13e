// One question to an HTTP API on a unix socket, and its JSON. Bounded in time and size; whoever asks checks the answer's shape.
import { request } from 'node:http'
import { MeshError } from './errors.ts'
import type { ErrorCode } from './errors.ts'

export interface Asked {
  /** Who should answer, for the error: `control plane`. */
  readonly who: string
  /** The error where nobody does. */
  readonly code: ErrorCode
  readonly timeoutMs: number
}

const maxAnswerBytes = 64 << 20

/** The JSON of a 200 answer to GET. `code` where there is none in time, BAD_MESSAGE where it is no JSON. */
export function askSocket(socketPath: string, path: string, { who, code, timeoutMs }: Asked): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const unavailable = (cause: Error): void => reject(new MeshError(code, `no ${who} answers on ${socketPath}: ${cause.message}`, { cause, source: 'upstream' }))
    const asked = request({ socketPath, path, agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxAnswerBytes) response.destroy(new Error('the answer is too long'))
        else chunks.push(chunk)
      })
      response.on('error', unavailable)
      response.on('end', () => {
        if (response.statusCode !== 200) return unavailable(new Error(`status ${response.statusCode}`))
        try {
          resolve(JSON.parse(Buffer.concat(chunks).toString()))
        } catch (cause) {
          reject(new MeshError('BAD_MESSAGE', `${socketPath} answers, but not as a ${who} does`, { cause, source: 'upstream' }))
        }
      })
    })
    asked.on('error', unavailable)
    asked.end()
  })
}
