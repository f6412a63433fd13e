// A cluster as its API shows it, asked by kubectl: what works with every cluster, also with one that nobody here made.
import type { CommandOptions, CommandResult } from '../../src/local/command.ts'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { eventually } from './machine.ts'

export interface KubeObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string; readonly namespace?: string; readonly uid: string; readonly labels?: Readonly<Record<string, string>>
    readonly annotations?: Readonly<Record<string, string>>; readonly creationTimestamp: string; readonly deletionTimestamp?: string
    readonly resourceVersion: string
  }
  readonly spec?: Readonly<Record<string, unknown>>
  readonly status?: { readonly conditions?: readonly KubeCondition[] } & Readonly<Record<string, unknown>>
}

export interface KubeCondition {
  readonly type: string
  readonly status: string
  readonly reason?: string
  readonly message?: string
}

export interface PodObject extends KubeObject {
  readonly spec: { readonly nodeName?: string; readonly hostNetwork?: boolean; readonly containers: readonly { readonly name: string }[] }
  readonly status: {
    readonly phase?: string; readonly podIP?: string; readonly podIPs?: readonly { readonly ip: string }[]; readonly hostIP?: string
    readonly conditions?: readonly KubeCondition[]; readonly startTime?: string
    readonly containerStatuses?: readonly { readonly name: string; readonly restartCount: number; readonly ready: boolean; readonly state?: Readonly<Record<string, unknown>> }[]
  }
}

const waitTimeoutMs = 120_000

export class Kubectl {
  /** A kubectl of a version that goes with the cluster's. */
  readonly kubectlPath: string
  readonly kubeconfig: string

  constructor(kubectlPath: string, kubeconfig: string) {
    this.kubectlPath = kubectlPath
    this.kubeconfig = kubeconfig
  }

  /** Standard output. COMMAND_FAILED with what kubectl said if it fails. */
  kubectl(args: readonly string[], options: CommandOptions = {}): Promise<string> {
    return mustRun(this.kubectlCommand(args), options)
  }

  tryKubectl(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return runCommand(this.kubectlCommand(args), options)
  }

  kubectlCommand(args: readonly string[]): string[] {
    return [this.kubectlPath, '--kubeconfig', this.kubeconfig, ...args]
  }

  /** YAML or JSON, any number of objects. */
  async apply(...manifests: readonly (string | Readonly<Record<string, unknown>>)[]): Promise<void> {
    const text = manifests.map((each) => (typeof each === 'string' ? each : JSON.stringify(each))).join('\n---\n')
    await this.kubectl(['apply', '--server-side', '--force-conflicts', '-f', '-'], { input: text })
  }

  /** `kubectl get ARGS -o json`, parsed. */
  async get<T = KubeObject>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await this.kubectl(['get', ...args, '-o', 'json'])) as T
  }

  async list<T = KubeObject>(...args: readonly string[]): Promise<T[]> {
    return (await this.get<{ items: T[] }>(...args)).items
  }

  pods(namespace: string, selector?: string): Promise<PodObject[]> {
    return this.list<PodObject>('pods', '-n', namespace, ...selector === undefined ? [] : ['-l', selector])
  }

  /** Until every replica of the Deployment, StatefulSet or DaemonSet (`deployment/NAME`) is the newest and ready. */
  async rolledOut(namespace: string, what: string, timeoutMs = waitTimeoutMs): Promise<void> {
    await this.kubectl(['rollout', 'status', '-n', namespace, what, `--timeout=${Math.ceil(timeoutMs / 1000)}s`])
  }

  /** Until pods of that selector are there and all of them have the condition, for example `Ready` or `sidestep.dev/Captured`. */
  async podsHave(namespace: string, selector: string, condition: string, status = 'True', timeoutMs = waitTimeoutMs): Promise<PodObject[]> {
    let seen = ''
    return eventually(`pods ${selector} of ${namespace} have ${condition}=${status}`, timeoutMs, async () => {
      const pods = (await this.pods(namespace, selector)).filter((pod) => pod.metadata.deletionTimestamp === undefined)
      const lacking = pods.filter((pod) => pod.status.conditions?.find((each) => each.type === condition)?.status !== status)
      seen = lacking.map((pod) => `${pod.metadata.name}: ${JSON.stringify(pod.status.conditions?.find((each) => each.type === condition) ?? pod.status.phase)}`).join('; ')
      return pods.length > 0 && lacking.length === 0 ? pods : undefined
    }, 200, () => seen)
  }

  /** Standard output of a command in a pod. `pod` may be `deployment/NAME`. */
  exec(namespace: string, pod: string, command: readonly string[], options: CommandOptions = {}): Promise<string> {
    return this.kubectl(['exec', '-n', namespace, pod, '--', ...command], options)
  }

  tryExec(namespace: string, pod: string, command: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return this.tryKubectl(['exec', '-n', namespace, pod, '--', ...command], options)
  }

  /** The last lines of a pod's log. */
  logs(namespace: string, pod: string, lines: number, more: readonly string[] = []): Promise<string> {
    return this.kubectl(['logs', '-n', namespace, pod, `--tail=${lines}`, ...more])
  }

  /** Sets or, with an empty value, removes a label. */
  async label(what: string, name: string, value: string, more: readonly string[] = []): Promise<void> {
    await this.kubectl(['label', '--overwrite', what, value === '' ? `${name}-` : `${name}=${value}`, ...more])
  }

  /** Returns when it is gone. */
  async delete(...args: readonly string[]): Promise<void> {
    await this.kubectl(['delete', '--ignore-not-found', ...args], { timeoutMs: waitTimeoutMs })
  }
}
