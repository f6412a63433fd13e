// h2load of nghttp2, which speaks HTTP/1.1 and HTTP/2 without TLS: requests as fast as they are answered, or at a rate. What it counted
// is read from what it prints, each answer's time from its log.
import { readFileSync, rmSync } from 'node:fs'
import { MeshError } from '../../../src/core/errors.ts'
import { runCommand } from '../../../src/local/command.ts'
import { quantile } from '../samples.ts'
import { grpcPath, protocols } from './protocols.ts'
import type { ProtocolName } from './protocols.ts'

export interface LoadPlan {
  readonly protocol: ProtocolName
  /** Where the client's end listens. */
  readonly port: number
  readonly path: string
  readonly seconds: number
  /** Requests per second in all; as many as are answered where absent. */
  readonly rate?: number
  /** A gRPC message. */
  readonly messageFile: string
  readonly logFile: string
  /** Enters the client's pod, on the cores of the load. */
  readonly wrap: readonly string[]
}

export interface Load {
  /** Answered with success. */
  readonly requests: number
  readonly failures: number
  readonly perSecond: number
  readonly us: { readonly p50: number; readonly p99: number }
}

/** Connections, and requests at once on each. */
const shapes = { http1: { connections: 32, streams: 1 }, http2: { connections: 4, streams: 16 }, grpc: { connections: 4, streams: 16 } } as const
const rateConnections = 10
/** A rival may drop one while it warms up; whoever measures says how many. */
const mostFailures = 0.002

/** Throws COMMAND_FAILED unless requests were answered, and nearly all with success. */
export async function h2load(plan: LoadPlan): Promise<Load> {
  // Where the machine is so busy that none was answered in time, once more.
  const load = await run(plan)
  if (load.requests > 0) return load
  const again = await run(plan)
  if (again.requests > 0) return again
  throw new MeshError('COMMAND_FAILED', `no request over ${protocols[plan.protocol].title} was answered within ${plan.seconds} s`)
}

async function run({ protocol, port, path, seconds, rate, messageFile, logFile, wrap }: LoadPlan): Promise<Load> {
  const { connections, streams } = shapes[protocol]
  const shape = rate === undefined ? ['-c', connections, '-m', streams] : ['-c', rateConnections, '-m', streams, '--rps', rate / rateConnections]
  const kind = protocol === 'grpc' ? ['-d', messageFile, '-H', 'content-type: application/grpc', '-H', 'te: trailers'] : protocols[protocol].isHttp2 ? [] : ['--h1']
  rmSync(logFile, { force: true })
  const url = `http://127.0.0.1:${port}${protocol === 'grpc' ? grpcPath : path}`
  const command = [...wrap, 'h2load', '-D', seconds, ...shape, ...kind, `--log-file=${logFile}`, url].map(String)
  const { code, stdout, stderr } = await runCommand(command, { timeoutMs: (seconds + 60) * 1_000 })
  const [, total, succeeded, failed] = /^requests: (\d+) total, .* (\d+) succeeded, (\d+) failed/m.exec(stdout) ?? []
  if (code !== 0 || total === undefined || Number(failed) > Number(total) * mostFailures) {
    throw new MeshError('COMMAND_FAILED', `requests over ${protocols[protocol].title} failed: ${(stdout + stderr).slice(-1_000)}`)
  }
  if (Number(total) === 0) return { requests: 0, failures: 0, perSecond: 0, us: { p50: Number.NaN, p99: Number.NaN } }
  const times = readFileSync(logFile, 'utf8').trimEnd().split('\n').map((line) => Number(line.split('\t')[2]))
  return { requests: Number(succeeded), failures: Number(failed), perSecond: Number(succeeded) / seconds, us: { p50: quantile(times, 0.5), p99: quantile(times, 0.99) } }
}
