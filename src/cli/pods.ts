// `sidestep exec`, `logs` and `run`: work with the pods of a local mesh.
import { spawn } from 'node:child_process'
import { constants } from 'node:os'
import { pipeline } from 'node:stream/promises'
import { Command, InvalidArgumentError } from 'commander'
import { MeshError } from '../core/errors.ts'
import { runRequestSchema } from '../model/local-status.ts'
import { z } from 'zod'
import { ApiClient, parsePodName, type PodName } from './api-client.ts'
import { nameOption } from './options.ts'

/** `terminal` is the caller's TERM, for programs that draw. */
export function execCommand(terminal: string | undefined): Command {
  return new Command('exec')
    .description('run a command in a pod, on this terminal; exits as the command does')
    .argument('<pod>', 'NAMESPACE/NAME')
    .argument('<command...>', 'the command, behind --')
    .option('-c, --container <name>', 'which container; the first unless told')
    .addOption(nameOption())
    .action(async (pod: string, command: string[], { container, name }: { container?: string; name: string }) => {
      const plan = await new ApiClient(name).execPlan({ ...parsePodName(pod), command, ...(container === undefined ? {} : { container }) })
      const env = terminal === undefined ? plan.env : { TERM: terminal, ...plan.env }
      process.exitCode = await runHere(plan.argv, env)
    })
}

function runHere(argv: readonly string[], env: Record<string, string>): Promise<number> {
  const [file = '', ...args] = argv
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: 'inherit', env, cwd: '/' })
    const ignore = (): void => {
      // The terminal sends Ctrl-C to the command as well; whether that ends it is for the command to say.
    }
    process.on('SIGINT', ignore)
    const pass = (signal: NodeJS.Signals): void => void child.kill(signal)
    process.once('SIGTERM', pass)
    process.once('SIGHUP', pass)
    child.on('error', (cause) => reject(new MeshError('COMMAND_FAILED', `cannot run ${file}: ${cause.message}`, { cause })))
    child.on('exit', (code, signal) => {
      process.off('SIGINT', ignore)
      process.off('SIGTERM', pass)
      process.off('SIGHUP', pass)
      resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal]))
    })
  })
}

export function logsCommand(): Command {
  return new Command('logs')
    .description('show what a container wrote')
    .argument('<pod>', 'NAMESPACE/NAME')
    .option('-c, --container <name>', 'which container; the first unless told')
    .option('-f, --follow', 'go on with what it writes from now on')
    .option('--tail <lines>', 'only the last lines', lineCount)
    .addOption(nameOption())
    .action(async (pod: string, options: { container?: string; follow?: boolean; tail?: number; name: string }) => {
      const { name, ...query } = options
      const log = await new ApiClient(name).logs(parsePodName(pod), query)
      await toStdout(log)
    })
}

async function toStdout(stream: NodeJS.ReadableStream): Promise<void> {
  try {
    await pipeline(stream, process.stdout, { end: false })
  } catch (error) {
    // A reader such as `head` that has seen enough is no failure.
    if (!(error instanceof Error && 'code' in error && error.code === 'EPIPE')) throw error
  }
}

export function runCommand(): Command {
  return new Command('run')
    .description('run one command in a pod of its own and show what it writes; exits as the command does')
    .argument('<pod>', 'NAME, or NAMESPACE/NAME')
    .argument('<command...>', 'the command, behind --')
    .option('--namespace <namespace>', 'namespace of the pod')
    .option('--node <node>', 'on which node')
    .option('-l, --label <key=value...>', 'labels of the pod')
    .option('--rm', 'remove the pod afterwards')
    .addOption(nameOption())
    .action(async (pod: string, command: string[], options: RunOptions) => {
      const named = parsePodName(pod)
      const target: PodName = { name: named.name, namespace: options.namespace ?? named.namespace }
      const parsed = runRequestSchema.safeParse({
        ...target, command, labels: Object.fromEntries((options.label ?? []).map(splitLabel)),
        ...(options.node === undefined ? {} : { node: options.node }),
      })
      if (!parsed.success) throw new MeshError('BAD_CONFIG', z.prettifyError(parsed.error))
      const client = new ApiClient(options.name)
      await client.run(parsed.data)
      const isEnding = removeOnSignal(client, target)
      try {
        await toStdout(await client.logs(target, { follow: true, wait: true }))
        process.exitCode = (await client.waitForEnd(target)).code
      } finally {
        if (options.rm && !isEnding()) await client.removePod(target)
      }
    })
}

interface RunOptions {
  readonly namespace?: string
  readonly node?: string
  readonly label?: readonly string[]
  readonly rm?: boolean
  readonly name: string
}

/** Ctrl-C ends what was started, not only the view of it. */
function removeOnSignal(client: ApiClient, target: PodName): () => boolean {
  let isEnding = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      isEnding = true
      const leave = (): never => process.exit(128 + constants.signals[signal])
      client.removePod(target).then(leave, leave)
    })
  }
  return () => isEnding
}

function splitLabel(text: string): [string, string] {
  const equals = text.indexOf('=')
  if (equals < 1) throw new MeshError('BAD_CONFIG', `${JSON.stringify(text)} is not a label: write KEY=VALUE`)
  return [text.slice(0, equals), text.slice(equals + 1)]
}

function lineCount(text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new InvalidArgumentError('expected a number of lines')
  return Number(text)
}
