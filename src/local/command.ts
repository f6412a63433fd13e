// Runs a helper program to its end with bounded output. Never through a shell.
import { spawn } from 'node:child_process'
import { MeshError } from '../core/errors.ts'

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface CommandOptions {
  readonly input?: string | Buffer
  readonly env?: NodeJS.ProcessEnv
  /** 0 means no limit. */
  readonly timeoutMs?: number
  /** Of stdout and of stderr each; the rest is dropped. */
  readonly maxOutputBytes?: number
}

/** Exit code and output, whatever the code. 128 + signal if a signal ended it. COMMAND_FAILED if it cannot be started. */
export function runCommand(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  const [file = '', ...args] = argv
  const maxBytes = options.maxOutputBytes ?? 8 << 20
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: 'pipe', ...(options.env ? { env: options.env } : {}) })
    const out = collect(child.stdout, maxBytes)
    const err = collect(child.stderr, maxBytes)
    const timer = options.timeoutMs ? setTimeout(() => child.kill('SIGKILL'), options.timeoutMs) : undefined
    child.on('error', (cause) => {
      clearTimeout(timer)
      reject(new MeshError('COMMAND_FAILED', `cannot run ${file}: ${cause.message}`, { cause }))
    })
    child.on('close', (code, signalName) => {
      clearTimeout(timer)
      resolve({ code: code ?? 128 + signalNumber(signalName), stdout: out(), stderr: err() })
    })
    // The program may end without reading all of it; its exit code tells what matters.
    child.stdin.on('error', () => {})
    child.stdin.end(options.input ?? '')
  })
}

/** As runCommand, but any exit code other than 0 is COMMAND_FAILED with the output in `detail`. */
export async function mustRun(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const result = await runCommand(argv, options)
  if (result.code === 0) return result.stdout
  const said = result.stderr.trim().slice(0, 2000)
  throw new MeshError('COMMAND_FAILED', `${argv.slice(0, 4).join(' ')} exited with ${result.code}: ${said}`, {
    detail: { argv, code: result.code, stderr: said },
  })
}

function collect(stream: NodeJS.ReadableStream, maxBytes: number): () => string {
  const parts: Buffer[] = []
  let sizeBytes = 0
  stream.on('data', (chunk: Buffer) => {
    const kept = chunk.subarray(0, Math.max(0, maxBytes - sizeBytes))
    sizeBytes += kept.length
    if (kept.length > 0) parts.push(kept)
  })
  return () => Buffer.concat(parts).toString('utf8')
}

const signalNumbers: Readonly<Record<string, number>> = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGABRT: 6, SIGKILL: 9, SIGSEGV: 11, SIGTERM: 15 }

function signalNumber(name: NodeJS.Signals | null): number {
  return signalNumbers[name ?? ''] ?? 0
}
