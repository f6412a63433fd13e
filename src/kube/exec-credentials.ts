// Credentials that a program gives, as kubeconfigs of cloud providers have it (client.authentication.k8s.io). It is run when there
// are none, when they end, and when the server refuses them. Its output is never quoted: it is a secret.
import { execFile } from 'node:child_process'
import { resolve } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../core/clock.ts'
import { MeshError } from '../core/errors.ts'

const apiVersions = ['client.authentication.k8s.io/v1', 'client.authentication.k8s.io/v1beta1'] as const

export const execSchema = z.looseObject({
  apiVersion: z.enum(apiVersions),
  command: z.string().min(1),
  args: z.array(z.string()).nullish(),
  env: z.array(z.looseObject({ name: z.string(), value: z.string() })).nullish(),
  interactiveMode: z.string().nullish(),
  installHint: z.string().nullish(),
})

const answerSchema = z.looseObject({
  apiVersion: z.enum(apiVersions),
  kind: z.literal('ExecCredential'),
  status: z.looseObject({
    expirationTimestamp: z.string().optional(),
    token: z.string().optional(),
    clientCertificateData: z.string().optional(),
    clientKeyData: z.string().optional(),
  }),
})

export interface ExecCredentials {
  readonly token?: string
  readonly certificate?: { readonly cert: string; readonly key: string }
}

export interface ExecOptions {
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Of the kubeconfig: a command with a slash is relative to it. */
  readonly directory: string
  readonly clock: Clock
  readonly timeoutMs?: number
}

const largestOutputBytes = 1 << 20
/** They are had anew this long before they end. */
const earlyMs = 10_000

/** Runs the program as needed, never twice at once. Rejects with COMMAND_FAILED, or BAD_CONFIG where it needs a terminal. */
export function execCredentials(exec: z.infer<typeof execSchema>, options: ExecOptions): (isRefused: boolean) => Promise<ExecCredentials> {
  let held: { readonly credentials: ExecCredentials; readonly endsMs: number } | undefined
  let running: Promise<ExecCredentials> | undefined
  const run = async (): Promise<ExecCredentials> => {
    const answer = await runPlugin(exec, options)
    const { expirationTimestamp, token, clientCertificateData: cert, clientKeyData: key } = answer.status
    const endsMs = expirationTimestamp === undefined ? Infinity : Date.parse(expirationTimestamp)
    const credentials: ExecCredentials = {
      ...(token !== undefined && { token }),
      ...(cert !== undefined && key !== undefined && { certificate: { cert, key } }),
    }
    if (token === undefined && !credentials.certificate) throw failed(exec.command, 'it gave neither a token nor a certificate with its key')
    held = { credentials, endsMs: Number.isNaN(endsMs) ? 0 : endsMs }
    return credentials
  }
  return (isRefused) => {
    if (held && !isRefused && options.clock.nowMs() < held.endsMs - earlyMs) return Promise.resolve(held.credentials)
    running ??= run().finally(() => {
      running = undefined
    })
    return running
  }
}

function failed(command: string, because: string, detail: Readonly<Record<string, unknown>> = {}): MeshError {
  return new MeshError('COMMAND_FAILED', `the credential plugin ${command} failed: ${because}`, { detail })
}

async function runPlugin(exec: z.infer<typeof execSchema>, options: ExecOptions): Promise<z.infer<typeof answerSchema>> {
  if (exec.interactiveMode === 'Always') {
    throw new MeshError('BAD_CONFIG', `the credential plugin ${exec.command} wants a terminal, which we have not`)
  }
  const env = {
    ...options.environment,
    ...Object.fromEntries((exec.env ?? []).map(({ name, value }) => [name, value])),
    KUBERNETES_EXEC_INFO: JSON.stringify({ apiVersion: exec.apiVersion, kind: 'ExecCredential', spec: { interactive: false } }),
  }
  const command = exec.command.includes('/') ? resolve(options.directory, exec.command) : exec.command
  const output = await new Promise<string>((done, fail) => {
    const limits = { env, timeout: options.timeoutMs ?? 30_000, maxBuffer: largestOutputBytes, killSignal: 'SIGKILL' as const }
    const child = execFile(command, [...(exec.args ?? [])], limits, (error, stdout, stderr) => {
      if (!error) return done(stdout)
      const hint = error.code === 'ENOENT' && exec.installHint ? `; ${exec.installHint.slice(0, 1_000)}` : ''
      return fail(failed(exec.command, `${String(error.code ?? error.signal ?? 'no answer')}${hint}`, { stderr: stderr.slice(-2_000) }))
    })
    child.stdin?.end()
  })
  try {
    return answerSchema.parse(JSON.parse(output))
  } catch {
    // Without the cause: it would quote the credentials.
    throw failed(exec.command, 'its answer is no ExecCredential of a version that we know')
  }
}
