// What the node agent tells Prometheus. Labels are words of our own, never names of pods.
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

export const podStates = ['captured', 'waiting', 'missing', 'lost', 'leaving', 'ineligible'] as const
export type PodStateName = (typeof podStates)[number]

export interface AgentGauges {
  readonly pods: () => Readonly<Record<PodStateName, number>>
  readonly ztunnelConnected: () => boolean
  readonly watchesSynced: () => boolean
  readonly acting: () => boolean
  readonly conditionsWaiting: () => number
}

export class AgentMetrics {
  readonly registry = new Registry()
  readonly #repairs: Counter<'because'>
  readonly #cni: Counter<'command' | 'result'>
  readonly #conditions: Counter<'result'>
  readonly #found: Counter<'by'>
  readonly #capture: Histogram
  readonly #audit: Histogram

  constructor() {
    const registers = [this.registry]
    this.#repairs = new Counter({ name: 'sidestep_agent_repairs_total', help: 'Pods enrolled again because the audit found something undone', labelNames: ['because'], registers })
    this.#cni = new Counter({ name: 'sidestep_agent_cni_requests_total', help: 'What the CNI plugin asked, and what it was told', labelNames: ['command', 'result'], registers })
    this.#conditions = new Counter({ name: 'sidestep_agent_conditions_total', help: 'Conditions of pods written', labelNames: ['result'], registers })
    this.#found = new Counter({ name: 'sidestep_agent_namespaces_found_total', help: 'Network namespaces that were proved, by who told of them', labelNames: ['by'], registers })
    this.#capture = new Histogram({
      name: 'sidestep_agent_capture_seconds', help: 'From the question of the CNI plugin until the pod was captured', buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20], registers,
    })
    this.#audit = new Histogram({ name: 'sidestep_agent_audit_seconds', help: 'Time that looking at all captured pods took', buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5], registers })
  }

  repaired(because: string): void {
    this.#repairs.inc({ because })
  }

  cni(command: string, result: 'captured' | 'outside' | 'refused'): void {
    this.#cni.inc({ command, result })
  }

  condition(result: 'written' | 'failed'): void {
    this.#conditions.inc({ result })
  }

  found(by: 'plugin' | 'runtime' | 'processes'): void {
    this.#found.inc({ by })
  }

  captured(seconds: number): void {
    this.#capture.observe(seconds)
  }

  audited(seconds: number): void {
    this.#audit.observe(seconds)
  }

  watch(read: AgentGauges): void {
    const pods: Gauge<'state'> = new Gauge({
      name: 'sidestep_agent_pods', help: 'Pods of this node whose labels ask for the mesh, by what became of it', labelNames: ['state'], registers: [],
      collect: () => {
        const counts = read.pods()
        for (const state of podStates) pods.set({ state }, counts[state])
      },
    })
    this.registry.registerMetric(pods)
    const gauge = (name: string, help: string, value: () => number): void => {
      const made: Gauge = new Gauge({ name, help, registers: [], collect: () => made.set(value()) })
      this.registry.registerMetric(made)
    }
    gauge('sidestep_agent_ztunnel_connected', 'Whether a ztunnel takes what it is told', () => Number(read.ztunnelConnected()))
    gauge('sidestep_agent_watches_synced', 'Whether pods and namespaces are known', () => Number(read.watchesSynced()))
    gauge('sidestep_agent_acting', 'Whether this agent is the one of its node, and no newer one', () => Number(read.acting()))
    gauge('sidestep_agent_conditions_waiting', 'Conditions of pods still to be written', read.conditionsWaiting)
  }
}
