// Asks a ztunnel's admin socket for its state; the answer is checked before anything relies on it.
import { request } from 'node:http'
import { MeshError } from '../core/errors.ts'
import { ztunnelStateSchema } from '../model/ztunnel-state.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'

const maxAnswerBytes = 16 << 20

/** AGENT_UNAVAILABLE where nobody answers; BAD_MESSAGE where the answer is not a ztunnel's. */
export function ztunnelState(socketPath: string): Promise<ZtunnelState> {
  return new Promise((resolve, reject) => {
    const unavailable = (cause: Error): void =>
      reject(new MeshError('AGENT_UNAVAILABLE', `no ztunnel answers on ${socketPath}: ${cause.message}`, { cause, source: 'upstream' }))
    const asked = request({ socketPath, path: '/state', timeout: 5_000 }, (response) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        if (bytes > maxAnswerBytes) response.destroy(new Error('the answer is too long'))
        else chunks.push(chunk)
      })
      response.on('error', unavailable)
      response.on('end', () => {
        try {
          resolve(ztunnelStateSchema.parse(JSON.parse(Buffer.concat(chunks).toString())))
        } catch (cause) {
          reject(new MeshError('BAD_MESSAGE', `${socketPath} answers, but not as a ztunnel does`, { cause, source: 'upstream' }))
        }
      })
    })
    asked.on('timeout', () => asked.destroy(new Error('no answer within 5 s')))
    asked.on('error', unavailable)
    asked.end()
  })
}
