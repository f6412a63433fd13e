// What the container runtime's CNI plugin tells the node agent, and what it is told back: between cni-server.ts, which has the
// socket, and node-agent.ts, which knows the pods. Shapes only.

/** A pod's sandbox as the runtime names it: what the runtime says is believed, except whose namespace it is, which is verified. */
export interface SandboxEvent {
  readonly namespace: string
  readonly name: string
  /** Of the pod, as the runtime has it; empty where it does not tell. */
  readonly uid: string
  readonly containerId: string
  /** Opens the network namespace; empty in a later DEL. */
  readonly netns: string
  /** As the plugins before ours gave them; may be empty in a DEL. */
  readonly ips: readonly string[]
}

/** `captured: false` with a reason is a pod that may start all the same: not in the mesh, or its namespace is `open`. */
export interface SandboxAnswer {
  readonly captured: boolean
  readonly because?: string
}

/** NodeAgent is one. */
export interface SandboxEvents {
  /**
   * Resolves when the pod is captured, or need not be. Rejects (MeshError, whose message is a sentence for the kubelet's event) when it
   * has to be and is not within `timeoutMs`.
   */
  onCniAdd(event: SandboxEvent, timeoutMs: number): Promise<SandboxAnswer>
  /** The sandbox goes. Never rejects, and is quick: what is to be let go is let go in the background. */
  onCniDel(event: SandboxEvent): Promise<void>
  /** Whether the pod is as it should be: captured, or not to be. Rejects like onCniAdd, at once. */
  onCniCheck(event: SandboxEvent): Promise<SandboxAnswer>
}
