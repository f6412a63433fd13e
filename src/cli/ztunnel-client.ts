// Asks a ztunnel on its admin socket, or on its loopback address; each answer is checked before anything relies on it.
import { request } from 'node:http'
import type { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { ztunnelStateSchema } from '../model/ztunnel-state.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import { adminErrorSchema } from '../model/ztunnel-views.ts'

const maxAnswerBytes = 512 << 20
const timeoutMs = 5_000

/** A path of a unix socket, or `http://HOST:PORT`. */
export type ZtunnelAddress = string

/**
 * AGENT_UNAVAILABLE where nobody answers; BAD_MESSAGE where the answer is not a ztunnel's; COMMAND_FAILED with its words where
 * it refuses.
 */
export async function askZtunnel<T>(address: ZtunnelAddress, schema: z.ZodType<T>, path: string, method: 'GET' | 'POST' = 'GET'): Promise<T> {
  const { status, text } = await send(address, method, path)
  const body = parseJson(text)
  if (status >= 400 && status !== 503) {
    const said = adminErrorSchema.safeParse(body)
    throw new MeshError('COMMAND_FAILED', said.success ? `the ztunnel says: ${said.data.error}` : `${address} answered ${method} ${path} with status ${status}`, { source: 'upstream' })
  }
  const parsed = schema.safeParse(body)
  if (!parsed.success) throw new MeshError('BAD_MESSAGE', `${address} answers, but not as a ztunnel does`, { cause: parsed.error, source: 'upstream' })
  return parsed.data
}

/** An answer that is text, such as metrics. Errors as above. */
export async function ztunnelText(address: ZtunnelAddress, path: string): Promise<string> {
  const { status, text } = await send(address, 'GET', path)
  if (status !== 200) throw new MeshError('COMMAND_FAILED', `${address} answered GET ${path} with status ${status}`, { source: 'upstream' })
  return text
}

export function ztunnelState(address: ZtunnelAddress): Promise<ZtunnelState> {
  return askZtunnel(address, ztunnelStateSchema, '/state')
}

function send(address: ZtunnelAddress, method: string, path: string): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    const unavailable = (cause: Error): void =>
      reject(new MeshError('AGENT_UNAVAILABLE', `no ztunnel answers on ${address}: ${cause.message}`, { cause, source: 'upstream' }))
    const url = address.startsWith('http://') ? urlOf(address) : undefined
    if (url === null) return reject(new MeshError('BAD_CONFIG', `${JSON.stringify(address)} is not http://HOST:PORT`))
    const where = url ? { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: url.port || 80 } : { socketPath: address }
    // A connection of its own: one that is kept would lead to a process that has been replaced.
    const asked = request({ ...where, path, method, agent: false, timeout: timeoutMs }, (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxAnswerBytes) response.destroy(new Error('the answer is too long'))
        else chunks.push(chunk)
      })
      response.on('error', unavailable)
      response.on('end', () => resolve({ status: response.statusCode ?? 500, text: Buffer.concat(chunks).toString() }))
    })
    asked.on('timeout', () => asked.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)))
    asked.on('error', unavailable)
    asked.end()
  })
}

/** Null where it is none. */
function urlOf(text: string): URL | null {
  return URL.canParse(text) ? new URL(text) : null
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // No shape fits undefined, so the caller reports it.
    return undefined
  }
}
