// Looks again and again whether each pod that should be captured really is: at what is pinned in the kernel, at what the ztunnel says it
// serves, and at the sandboxes that the runtime has. What was undone is put back by enrolling anew; what cannot be is reported. Believes
// no earlier answer, its own included.
import { performance } from 'node:perf_hooks'
import { z } from 'zod'
import { askSocket } from '../core/ask-socket.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { CaptureView } from '../kernel/capture-view.ts'
import type { Drift, ExpectedCapture } from '../kernel/capture-view.ts'
import type { ListenerKind } from '../kernel/generated/layout.ts'
import type { Enrolments } from './enrolment-agent.ts'
import type { Finder } from './finder.ts'
import type { NodeAgent } from './node-agent.ts'
import type { AgentMetrics } from './telemetry/metrics.ts'

export interface AuditOptions {
  readonly agent: NodeAgent
  readonly enrolments: Enrolments
  readonly finder: Finder
  /** Of the pinned objects; undefined where another's ztunnel redirects by other means, and only namespaces are looked at. */
  readonly instance: string | undefined
  readonly ztunnelAdminSocket: string
  readonly everyMs: number
  readonly metrics: AgentMetrics
  readonly logger: Logger
}

type Enrolled = ReturnType<NodeAgent['enrolled']>[number]

/** What one pod lacks. `ztunnel`: the ztunnel does not serve it, or in another namespace. */
interface Finding {
  readonly kind: Drift['kind'] | 'ztunnel'
  readonly because: string
}

const stateSchema = z.object({
  xds: z.object({ state: z.string() }),
  pods: z.array(z.object({ uid: z.string(), netnsCookie: z.string() })),
})
type ZtunnelPods = z.infer<typeof stateSchema>

const askMs = 3_000

export class Audit {
  readonly #options: AuditOptions
  #timer: NodeJS.Timeout | undefined
  #isClosed = false
  #reported = ''

  constructor(options: AuditOptions) {
    this.#options = options
  }

  start(): void {
    this.#timer = setTimeout(() => void this.round().finally(() => !this.#isClosed && this.start()), this.#options.everyMs)
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }

  /** One look at everything. Never rejects. */
  async round(): Promise<void> {
    const { agent, metrics, logger } = this.#options
    // A newer agent looks after the node: repairing now would undo its work.
    if (!agent.isActing) return
    const startedAt = performance.now()
    try {
      await this.#sandboxes()
      if (this.#options.instance !== undefined && this.#options.enrolments.isConnected) await this.#captures(this.#options.instance)
    } catch (error) {
      logger.warn({ because: describeError(error) }, 'the audit of captured pods failed')
    }
    metrics.audited((performance.now() - startedAt) / 1000)
  }

  /** A sandbox that was made anew, without the plugin's word, has another namespace. */
  async #sandboxes(): Promise<void> {
    const { agent, finder } = this.#options
    const newest = await finder.sandboxes()
    if (!newest) return
    for (const { entry } of agent.enrolled()) {
      const sandbox = newest.get(entry.pod.uid)
      const { proven } = entry
      if (!sandbox || !proven || sandbox.id === proven.sandboxId) continue
      // Found by its processes, or told by a runtime that calls it otherwise: the same as long as the addresses are there.
      if (proven.sandboxId === '') entry.proven = { ...proven, sandboxId: sandbox.id }
      else agent.lose(entry, 'its sandbox was made anew')
    }
  }

  async #captures(instance: string): Promise<void> {
    const { agent, enrolments, metrics, logger } = this.#options
    const settled = (): Enrolled[] => agent.enrolled().filter(({ entry }) => enrolments.stateOf(entry.pod.uid).t === 'captured')
    const before = await this.#look(instance, settled())
    if (!before) return
    for (const [each, findings] of before) {
      if (findings.length === 0) agent.setLost(each.entry, undefined)
      else if (agent.isActing) {
        const [first] = findings
        logger.warn({ ...names(each), because: findings.map(({ because }) => because).join('; ') }, 'capture of a pod was undone: enrolling it again')
        if (first) metrics.repaired(first.kind)
        await enrolments.repeat(each.entry.pod.uid)
      }
    }
    const broken = [...before].filter(([, findings]) => findings.length > 0).map(([each]) => each)
    if (broken.length === 0) return
    const after = await this.#look(instance, settled())
    for (const [each, findings] of after ?? []) {
      if (!broken.some(({ entry }) => entry === each.entry)) continue
      const because = findings.map((finding) => finding.because).join('; ')
      if (because !== '') logger.error({ ...names(each), because }, 'capture of a pod could not be restored')
      agent.setLost(each.entry, because === '' ? undefined : because)
    }
  }

  /** Undefined where the ztunnel does not say what it serves: it may be about to start, and what is pinned stays in force. */
  async #look(instance: string, pods: readonly Enrolled[]): Promise<Map<Enrolled, Finding[]> | undefined> {
    const served = await this.#served()
    if (!served) return undefined
    const inside = new Map<Enrolled, Pick<ExpectedCapture, 'fences' | 'sockets'>>()
    for (const each of pods) {
      try {
        inside.set(each, { fences: (await each.netns.veths()).map(({ peerIndex }) => peerIndex), sockets: await each.netns.listeners() })
      } catch (error) {
        // Let go while we looked: it is no concern of this round any more.
        if (each.entry.proven?.netns === each.netns) throw error
      }
    }
    using view = CaptureView.open(instance)
    const common: Finding[] = view ? view.hooks() : [{ kind: 'instance', because: 'nothing is pinned' }]
    this.#report(common)
    const cookies = new Map(served.pods.map(({ uid, netnsCookie }) => [uid, netnsCookie]))
    const listeners: ListenerKind[] = ['outbound', 'inbound', ...(served.xds.state === 'off' ? [] : ['hbone'] as const), 'dns']
    return new Map([...inside].filter(([{ entry, netns }]) => entry.proven?.netns === netns).map(([each, expected]) => {
      const { cookie } = each.netns
      const isServed = cookies.get(each.entry.pod.uid) === String(cookie)
      const own = view?.pod(cookie, each.enrolment, { listeners, ...expected }) ?? []
      return [each, [...common, ...(isServed ? [] : [{ kind: 'ztunnel', because: 'the ztunnel does not serve it' } as const]), ...own]]
    }))
  }

  async #served(): Promise<ZtunnelPods | undefined> {
    const { ztunnelAdminSocket, logger } = this.#options
    try {
      return stateSchema.parse(await askSocket(ztunnelAdminSocket, '/state', { who: 'ztunnel', code: 'AGENT_UNAVAILABLE', timeoutMs: askMs }))
    } catch (error) {
      logger.debug({ because: describeError(error) }, 'the ztunnel does not say what it serves')
      return undefined
    }
  }

  #report(common: readonly Finding[]): void {
    const text = common.map(({ because }) => because).join('; ')
    if (text !== '' && text !== this.#reported) this.#options.logger.warn({ because: text }, 'hooks are not as they should be')
    this.#reported = text
  }
}

function names({ entry }: Enrolled): Record<string, string> {
  return { 'pod.namespace': entry.pod.namespace, 'pod.name': entry.pod.name }
}
