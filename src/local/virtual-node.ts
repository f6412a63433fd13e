// A virtual node: a network namespace on the underlay that routes for its pods and balances services for them, with an
// optional ztunnel beside. It knows addresses and rules, not pods.
import { setTimeout as sleep } from 'node:timers/promises'
import type { SocketAddr } from '../core/address.ts'
import type { Logger } from '../core/log.ts'
import { describeError } from '../core/errors.ts'
import { HostNumbers, nodeIps, nodeName, type IpPair } from './addresses.ts'
import type { EnrolmentAgent } from '../agent/enrolment-agent.ts'
import { DnsServer } from './dns-server.ts'
import { nodeLines, nodePortLines, nodeSysctls, underlayLines } from './links.ts'
import { Sandbox } from './sandbox.ts'
import { serviceRules, type ServiceRoute } from './service-rules.ts'
import type { ServingWatch } from './serving-watch.ts'
import type { StatePaths } from './state.ts'
import type { SupervisedProcess } from './supervised-process.ts'

const gatherMs = 10

export class VirtualNode {
  readonly index: number
  readonly name: string
  readonly ips: IpPair
  readonly sandbox: Sandbox
  readonly hosts = new HostNumbers()
  agent: EnrolmentAgent | undefined
  ztunnel: SupervisedProcess | undefined
  /** Of the ztunnel, where a control plane tells it what the mesh is: it captures pods before it knows that. */
  serving: ServingWatch | undefined
  readonly #logger: Logger
  #wantedRules = ''
  #appliedRules = ''
  #applying: Promise<void> | undefined

  constructor(index: number, sandbox: Sandbox, logger: Logger) {
    this.index = index
    this.name = nodeName(index)
    this.ips = nodeIps(index)
    this.sandbox = sandbox
    this.#logger = logger
  }

  /**
   * Makes the rules those of `services`; resolves when these, or newer ones, are in force. Only one change runs at a
   * time and what came meanwhile is folded into the next. A refusal is logged and the rules before it stay.
   */
  setServices(services: readonly ServiceRoute[]): Promise<void> {
    this.#wantedRules = serviceRules(services, this.ips)
    this.#applying ??= this.#apply().finally(() => (this.#applying = undefined))
    return this.#applying
  }

  async #apply(): Promise<void> {
    while (this.#wantedRules !== this.#appliedRules) {
      // Where one pod becomes ready, more often follow.
      await sleep(gatherMs)
      const rules = this.#wantedRules
      try {
        await this.sandbox.nft(rules)
      } catch (error) {
        this.#logger.error({ node: this.name, because: describeError(error) }, 'service rules were refused')
      }
      this.#appliedRules = rules
    }
  }

  /** Resolves when no change of the rules is under way. */
  async idle(): Promise<void> {
    await this.#applying
  }
}

export interface Topology {
  readonly underlay: Sandbox
  readonly nodes: readonly VirtualNode[]
  /** At the cluster DNS address, from everywhere in the mesh. */
  readonly dns: DnsServer
}

/** Makes the underlay, `count` nodes on it, and the name server, which asks `nameServers` in the place of this machine's. What was made before a failure is recorded and removed by cleanup. */
export async function makeTopology(paths: StatePaths, count: number, logger: Logger, nameServers?: readonly SocketAddr[]): Promise<Topology> {
  const underlay = await Sandbox.start({
    paths, role: 'underlay', id: 'underlay', label: 'underlay', hostname: 'underlay', isPod: false, sysctls: nodeSysctls,
  })
  const indexes = Array.from({ length: count }, (_, i) => i + 1)
  const nodes = await Promise.all(
    indexes.map(async (index) => {
      const name = nodeName(index)
      const sandbox = await Sandbox.start({ paths, role: 'node', id: name, label: name, hostname: name, isPod: false, sysctls: nodeSysctls })
      return new VirtualNode(index, sandbox, logger)
    }),
  )
  await underlay.ip([...underlayLines(), ...nodes.flatMap((node) => nodePortLines(node.index, node.sandbox.pid))])
  await Promise.all(nodes.map((node) => node.sandbox.ip(nodeLines(node.index, count))))
  await Promise.all(nodes.map((node) => node.setServices([])))
  // Last: cleanup finds everything but sockets of our own.
  const dns = await DnsServer.start({ netns: underlay.netns, logger, ...(nameServers && { nameServers }) })
  return { underlay, nodes, dns }
}
