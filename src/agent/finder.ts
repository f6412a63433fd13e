// Finds and proves the network namespaces of pods that started without us: by the container runtime, and by looking at all processes
// where that does not tell. Gives out only what is proved.
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import type { Netns } from '../kernel/netns.ts'
import type { Sandbox, SandboxNetwork, SandboxSource } from './cri-client.ts'
import { podIps } from './node-pod.ts'
import { proveNetns } from './netns-proof.ts'
import { scanProcesses } from './process-scan.ts'

export interface Sought {
  readonly uid: string
  readonly namespace: string
  readonly name: string
  /** As the API tells them; empty where it does not yet. */
  readonly ips: readonly string[]
}

export type Found =
  | { readonly t: 'found'; readonly netns: Netns; readonly ips: readonly string[]; readonly sandboxId: string; readonly by: 'runtime' | 'processes' }
  | { readonly t: 'missing'; readonly reason: 'NetworkNamespaceNotFound' | 'NetworkNamespaceNotProven'; readonly because: string }

export interface FinderOptions {
  /** Undefined where no runtime can be asked. */
  readonly runtime: SandboxSource | undefined
  readonly claims: Claims
  readonly hostInode: bigint
  readonly logger: Logger
  readonly scan?: typeof scanProcesses
}

/** Which pod has which namespace: one each. */
export class Claims {
  readonly #uids = new Map<bigint, { readonly uid: string; readonly name: string }>()

  /** The other pod that has it; undefined for nobody, and for the pod itself. */
  claimant(inode: bigint, uid: string): string | undefined {
    const other = this.#uids.get(inode)
    return other && other.uid !== uid ? other.name : undefined
  }

  take(inode: bigint, { uid, namespace, name }: Pick<Sought, 'uid' | 'namespace' | 'name'>): void {
    this.#uids.set(inode, { uid, name: `${namespace}/${name}` })
  }

  release(inode: bigint, uid: string): void {
    if (this.#uids.get(inode)?.uid === uid) this.#uids.delete(inode)
  }
}

export class Finder {
  readonly #options: FinderOptions
  #isRuntimeAway = false

  constructor(options: FinderOptions) {
    this.#options = options
  }

  /** Each with its answer; what is found is claimed for its pod, and the caller's to close. Never rejects. */
  async find(sought: readonly Sought[]): Promise<Map<string, Found>> {
    const answers = new Map<string, Found>()
    const sandboxes = await this.sandboxes()
    for (const pod of sought) {
      const sandbox = sandboxes?.get(pod.uid)
      answers.set(pod.uid, sandbox && isOf(sandbox, pod) ? await this.#byRuntime(pod, sandbox) : notFound)
    }
    const left = sought.filter(({ uid, ips }) => ips.length > 0 && answers.get(uid)?.t !== 'found')
    if (left.length > 0) await this.#byProcesses(left, answers)
    return answers
  }

  /** The newest ready sandbox of each pod; undefined where no runtime tells. */
  async sandboxes(): Promise<ReadonlyMap<string, Sandbox> | undefined> {
    const { runtime, logger } = this.#options
    if (!runtime) return undefined
    try {
      const newest = new Map<string, Sandbox>()
      for (const sandbox of await runtime.list()) {
        const other = newest.get(sandbox.uid)
        if (!other || other.createdAt < sandbox.createdAt) newest.set(sandbox.uid, sandbox)
      }
      this.#isRuntimeAway = false
      return newest
    } catch (error) {
      if (!this.#isRuntimeAway) logger.warn({ because: describeError(error) }, 'the container runtime cannot be asked: looking at processes instead')
      this.#isRuntimeAway = true
      return undefined
    }
  }

  async #byRuntime(pod: Sought, { id }: Sandbox): Promise<Found> {
    const { runtime, logger } = this.#options
    let network: SandboxNetwork | undefined
    try {
      network = await runtime?.network(id)
    } catch (error) {
      logger.debug({ because: describeError(error), 'pod.name': pod.name }, 'the container runtime does not tell of a sandbox')
    }
    if (!network || network.isHostNetwork || !isOf(network.sandbox, pod)) return notFound
    const ips = pod.ips.length > 0 ? pod.ips : podIps(network.ips)
    if (ips.length === 0) return { t: 'missing', reason: 'NetworkNamespaceNotFound', because: 'it has no address yet' }
    return await this.#prove(pod, ips, network.paths, id, 'runtime')
  }

  async #byProcesses(pods: readonly Sought[], answers: Map<string, Found>): Promise<void> {
    const { scan = scanProcesses } = this.#options
    const candidates = await scan(new Set(pods.map(({ uid }) => uid)))
    for (const pod of pods) {
      const paths = (candidates.get(pod.uid) ?? []).map(({ path }) => path)
      if (paths.length === 0) continue
      answers.set(pod.uid, await this.#prove(pod, pod.ips, paths, '', 'processes'))
    }
  }

  async #prove(pod: Sought, ips: readonly string[], paths: readonly string[], sandboxId: string, by: 'runtime' | 'processes'): Promise<Found> {
    const { claims, hostInode } = this.#options
    let because: string | undefined
    for (const path of paths) {
      const proof = await proveNetns(path, { ips, hostInode, claimant: (inode) => claims.claimant(inode, pod.uid) })
      if (proof.t === 'proven') {
        claims.take(proof.netns.inode, pod)
        return { t: 'found', netns: proof.netns, ips, sandboxId, by }
      }
      because ??= proof.because
    }
    return because === undefined ? notFound : { t: 'missing', reason: 'NetworkNamespaceNotProven', because }
  }
}

const notFound: Found = { t: 'missing', reason: 'NetworkNamespaceNotFound', because: 'neither the container runtime nor any process tells its network namespace' }

/** A sandbox is a pod's by all three. */
function isOf(sandbox: Sandbox, pod: Sought): boolean {
  return sandbox.uid === pod.uid && sandbox.namespace === pod.namespace && sandbox.name === pod.name
}
