// Probes as the kubelet does them: one attempt (exec inside the pod, TCP or HTTP from the node), and the loop that counts
// attempts against the thresholds. The loop knows no container; what follows from a verdict is its owner's business.
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { connect as tlsConnect } from 'node:tls'
import { resolvePort, type ContainerSpec, type ProbeSpec } from '../model/manifest-pod.ts'

export interface ProbeTarget {
  readonly ip: string
  readonly ports: ContainerSpec['ports']
  /** A TCP connection from the pod's node. */
  dial(host: string, port: number, timeoutMs: number): Promise<Socket>
  /** Exit code of a command inside the pod; killed after `timeoutMs`. */
  exec(command: readonly string[], timeoutMs: number): Promise<number>
}

export type ProbeResult = { readonly ok: true } | { readonly ok: false; readonly because: string }

/** One attempt. Never throws: whatever goes wrong is a failed probe. */
export async function attempt(probe: ProbeSpec, target: ProbeTarget): Promise<ProbeResult> {
  const timeoutMs = probe.timeoutSeconds * 1000
  try {
    if (probe.exec) {
      const code = await target.exec(probe.exec.command, timeoutMs)
      return code === 0 ? { ok: true } : { ok: false, because: `the command exited with ${code}` }
    }
    const wanted = probe.httpGet ?? probe.tcpSocket
    const port = wanted && resolvePort(wanted.port, target.ports)
    if (!wanted || port === undefined) return { ok: false, because: `the container has no port named ${wanted?.port}` }
    const socket = await target.dial(wanted.host ?? target.ip, port, timeoutMs)
    if (!probe.httpGet) {
      socket.destroy()
      return { ok: true }
    }
    const status = await httpStatus(probe.httpGet, socket, `${wanted.host ?? target.ip}`, port, timeoutMs)
    return status >= 200 && status < 400 ? { ok: true } : { ok: false, because: `answered with status ${status}` }
  } catch (error) {
    return { ok: false, because: error instanceof Error ? error.message : String(error) }
  }
}

function httpStatus(get: NonNullable<ProbeSpec['httpGet']>, raw: Socket, host: string, port: number, timeoutMs: number): Promise<number> {
  // The kubelet does not verify certificates either: it asks whether the container answers, not who it is.
  const socket = get.scheme === 'HTTPS' ? tlsConnect({ socket: raw, rejectUnauthorized: false }) : raw
  return new Promise<number>((resolve, reject) => {
    const timer = setTimeout(() => finish(() => reject(new Error(`no answer within ${timeoutMs} ms`))), timeoutMs)
    const finish = (then: () => void): void => {
      clearTimeout(timer)
      socket.destroy()
      raw.destroy()
      then()
    }
    const headers: Record<string, string> = { 'user-agent': 'kube-probe/sidestep', accept: '*/*', connection: 'close' }
    for (const { name, value } of get.httpHeaders) headers[name.toLowerCase()] = value
    const request = httpRequest({ host, port, path: get.path === '' ? '/' : get.path, headers, createConnection: () => socket })
    request.on('response', (response: IncomingMessage) => finish(() => resolve(response.statusCode ?? 0)))
    request.on('error', (error) => finish(() => reject(error)))
    request.end()
  })
}

export interface ProbeLoopOptions {
  readonly probe: ProbeSpec
  readonly attempt: () => Promise<ProbeResult>
  /** Called when a threshold is reached and the verdict differs from the one before (undefined at first). */
  readonly onVerdict: (ok: boolean, because: string) => void
  /** Until the first success, ask more often: failures do not count for readiness, and waiting helps nobody. */
  readonly isEager?: boolean
}

const eagerPeriodMs = 250

/** Starts probing; the returned function ends it (an attempt under way is ignored). */
export function startProbeLoop({ probe, attempt: once, onVerdict, isEager }: ProbeLoopOptions): () => void {
  let verdict: boolean | undefined
  let streak = 0
  let last: boolean | undefined
  let isStopped = false
  let timer = setTimeout(() => void tick(), probe.initialDelaySeconds * 1000)

  async function tick(): Promise<void> {
    const startedAt = performance.now()
    const result = await once()
    if (isStopped) return
    streak = result.ok === last ? streak + 1 : 1
    last = result.ok
    if (streak >= (result.ok ? probe.successThreshold : probe.failureThreshold) && verdict !== result.ok) {
      verdict = result.ok
      onVerdict(result.ok, result.ok ? '' : result.because)
    }
    const periodMs = isEager && verdict !== true ? Math.min(eagerPeriodMs, probe.periodSeconds * 1000) : probe.periodSeconds * 1000
    if (!isStopped) timer = setTimeout(() => void tick(), Math.max(0, periodMs - (performance.now() - startedAt)))
  }
  return () => {
    isStopped = true
    clearTimeout(timer)
  }
}
