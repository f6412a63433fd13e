// TCP connections from the virtual nodes' namespaces, as a kubelet on that node would make them. Holds each namespace
// open from its first use until `close`.
import type { Socket } from 'node:net'
import { Netns } from '../kernel/netns.ts'
import { connectInNetns } from '../kernel/sockets.ts'

export class NodeDialer {
  readonly #open = new Map<string, Promise<Netns>>()

  /** `netns` is a path that opens the namespace. Rejects with CONNECT_* or SYSCALL_FAILED. */
  async dial(netns: string, host: string, port: number, timeoutMs: number): Promise<Socket> {
    let opened = this.#open.get(netns)
    if (!opened) {
      opened = Netns.open(netns)
      this.#open.set(netns, opened)
    }
    return connectInNetns(await opened, { host, port, timeoutMs })
  }

  async close(): Promise<void> {
    for (const opened of await Promise.allSettled(this.#open.values())) if (opened.status === 'fulfilled') opened.value.close()
    this.#open.clear()
  }
}
