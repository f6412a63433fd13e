// Pods that ask an echo server without pause while a test changes something around them, and what became of every question. The
// counts are read from their logs, so that nothing depends on a connection that would have to stay up meanwhile.
import type { SteadyCounts } from '../helpers/steady-load.ts'
import { appsDirectory } from './app-image.ts'
import type { Kubectl } from './kubectl.ts'
import { eventually } from './machine.ts'
import { pod } from './workloads.ts'

export interface LoadWish {
  readonly namespace: string
  readonly image: string
  readonly host: string
  readonly port: number
  /** Ask on a new connection each time. */
  readonly clients?: number
  /** Ask on one connection for as long as they live. */
  readonly held?: number
  readonly node?: string
}

const startTimeoutMs = 60_000

export class Load {
  readonly #kube: Kubectl
  readonly #namespace: string
  readonly #name: string

  private constructor(kube: Kubectl, namespace: string, name: string) {
    this.#kube = kube
    this.#namespace = namespace
    this.#name = name
  }

  /** Returns when the pod was answered once by each of its clients. */
  static async start(kube: Kubectl, name: string, { namespace, image, host, port, clients = 0, held = 0, node }: LoadWish): Promise<Load> {
    const command = ['node', `${appsDirectory}/steady.ts`, host, String(port), String(clients), String(held)]
    // It ends when its standard input does.
    await kube.apply(pod(name, { namespace, image, command, container: { stdin: true }, ...node === undefined ? {} : { node } }))
    await kube.podsHave(namespace, `app=${name}`, 'Ready')
    const load = new Load(kube, namespace, name)
    await eventually(`${name} is answered`, startTimeoutMs, async () => {
      const { asked, heldAsked } = await load.counts()
      return asked >= clients && heldAsked >= held ? true : undefined
    }, 300)
    return load
  }

  async counts(): Promise<SteadyCounts> {
    const last = (await this.#kube.logs(this.#namespace, this.#name, 1)).trim()
    return last === '' ? { asked: 0, failed: 0, heldAsked: 0, heldFailed: 0, slowestMs: 0, errors: {} } : JSON.parse(last) as SteadyCounts
  }

  /** Returns when it asked that many more questions, of either kind. */
  async more(count: number, timeoutMs = startTimeoutMs): Promise<SteadyCounts> {
    const sum = ({ asked, failed, heldAsked, heldFailed }: SteadyCounts): number => asked + failed + heldAsked + heldFailed
    const goal = sum(await this.counts()) + count
    return eventually(`${this.#name} asks on`, timeoutMs, async () => {
      const now = await this.counts()
      return sum(now) >= goal ? now : undefined
    }, 300)
  }
}
