// `sidestep up` and `sidestep down`: start a local mesh and wait for it, end one and all it made. The work is done by what
// src/bin hands in; here are the words.
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, InvalidArgumentError } from 'commander'
import { MeshError } from '../core/errors.ts'
import { localStateRoot, type LocalStatus } from '../model/local-status.ts'
import { parsePublishOption, type PublishOption } from '../model/publish.ts'
import { ApiClient } from './api-client.ts'
import { nameOption } from './options.ts'
import { statusTable } from './status.ts'

export interface UpOptions {
  readonly name: string
  readonly nodes: number
  readonly mesh: boolean
  readonly directory: string
  readonly publish: readonly PublishOption[]
}

/** What the composition root can do with meshes. */
export interface LocalControl {
  /** Runs the mesh in this process until a signal ends it. */
  runForeground(options: UpOptions): Promise<void>
  /** Starts a process of its own that runs it; resolves when its API answers. */
  startDaemon(options: UpOptions): Promise<void>
  /** Ends it if it runs and removes all it made, also after a crash. */
  cleanUp(name: string): Promise<{ readonly found: boolean; readonly problems: readonly string[] }>
}

const pollMs = 150

export function upCommand(control: LocalControl, print: (text: string) => void = console.log): Command {
  return new Command('up')
    .description('run what a directory of Kubernetes YAML describes, as pods on virtual nodes of this machine')
    .argument('<directory>', 'directory with Kubernetes YAML (or one file); changes in it apply live')
    .addOption(nameOption())
    .option('--nodes <count>', 'how many virtual nodes', wholeNumber, 2)
    .option('--no-mesh', 'run bare pods, without ztunnels')
    .option('--publish <ingress>', 'NAMESPACE/GATEWAY[:PORT]=HOSTPORT: let a port of 127.0.0.1 here lead to an ingress; may be repeated', publishOption, [])
    .option('--foreground', 'stay attached and log to stdout; Ctrl-C ends the mesh')
    .option('--timeout <seconds>', 'how long to wait until everything is ready', wholeNumber, 60)
    .addHelpText('after', `
It returns when everything is ready; the mesh goes on until \`sidestep down\`. Kinds: Namespace, ServiceAccount, Node, Pod,
Deployment, Service, EndpointSlice, AuthorizationPolicy, PeerAuthentication, ServiceEntry, WorkloadEntry, and those of docs/routing.md.
A container's command is run as it is; images are ignored.

Examples:
  sidestep up examples/shop
  sidestep up ./manifests --name second --nodes 3
  sidestep up ./manifests --publish shop/ingress:80=8080
  sidestep up ./manifests --foreground`)
    .action(async (directory: string, options: Omit<UpOptions, 'directory'> & { foreground?: boolean; timeout: number }) => {
      const { name, nodes, mesh, publish } = options
      if (options.foreground) return control.runForeground({ directory, name, nodes, mesh, publish })
      print(`starting mesh ${name} with ${nodes} node${nodes === 1 ? '' : 's'}`)
      await control.startDaemon({ directory, name, nodes, mesh, publish })
      const status = await waitForReady(new ApiClient(name), options.timeout * 1000, print)
      print(statusTable(status))
      if (!status.ready) {
        process.exitCode = 1
        print(`\nnot everything is ready after ${options.timeout} s; the mesh stays up: see \`sidestep logs\` and ${localStateRoot}/${name}/logs`)
      }
    })
}

async function waitForReady(client: ApiClient, timeoutMs: number, print: (text: string) => void): Promise<LocalStatus> {
  const deadline = performance.now() + timeoutMs
  for (let said = ''; ; await sleep(pollMs)) {
    const status = await client.status()
    const line = progress(status)
    if (line !== said) print(line)
    said = line
    if (status.ready || performance.now() >= deadline) return status
  }
}

/** One line, the same as long as nothing changed. */
export function progress({ pods, nodes, mesh }: LocalStatus): string {
  const done = pods.filter((pod) => pod.ready || pod.phase === 'Succeeded').length
  const waiting = pods.filter((pod) => pod.captured === 'waiting').length
  const ztunnels = nodes.filter((node) => node.ztunnel === 'connected').length
  return [
    `pods ready: ${done} of ${pods.length}`,
    ...(mesh ? [`ztunnels connected: ${ztunnels} of ${nodes.length}`] : []),
    ...(waiting > 0 ? [`waiting for capture: ${waiting}`] : []),
  ].join(', ')
}

export function downCommand(control: LocalControl, print: (text: string) => void = console.log): Command {
  return new Command('down')
    .description('end a local mesh and remove all it made, also after a crash')
    .addOption(nameOption())
    .addHelpText('after', '\nExample:\n  sidestep down --name demo')
    .action(async ({ name }: { name: string }) => {
      const { found, problems } = await control.cleanUp(name)
      if (problems.length > 0) throw new MeshError('COMMAND_FAILED', `mesh ${name} is down, but: ${problems.join('; ')}`)
      print(found ? `mesh ${name} is down` : `there is no mesh named ${name}; nothing to do`)
    })
}

function wholeNumber(text: string): number {
  const value = Number(text)
  if (!/^\d{1,6}$/.test(text) || value < 1) throw new InvalidArgumentError('expected a whole number from 1 on')
  return value
}

function publishOption(text: string, before: readonly PublishOption[]): readonly PublishOption[] {
  const read = parsePublishOption(text)
  if (!read) throw new InvalidArgumentError('expected NAMESPACE/GATEWAY[:PORT]=HOSTPORT')
  return [...before, read]
}
