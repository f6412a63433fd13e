// The connections that this ztunnel carries now: who lists them, who judges them again when a policy changes, and how many
// each workload has, which load balancing asks. Bounded by the limit on connections, since each is in here once.
import type { ConnectionFacts } from './telemetry/connection-record.ts'

export interface LiveConnection extends ConnectionFacts {
  readonly podUid: string
  readonly protocol: 'tcp' | 'hbone'
  /** It shares a tunnel's connection that was there before. */
  readonly isReused: boolean
  /** Milliseconds since 1970. */
  readonly sinceMs: number
  /** Bytes carried so far: sent by the source, and by the destination. */
  readonly counts: () => { readonly sent: number; readonly received: number }
  /** Cuts both sides by a reset; `because` is a word of a closed set. */
  readonly cut: (because: string) => void
}

export class LiveConnections {
  readonly #byId = new Map<number, LiveConnection>()
  readonly #inboundOf = new Map<string, Set<LiveConnection>>()
  readonly #load = new Map<string, number>()
  #nextId = 1

  /** Returns how to take it out again, which must be called once. */
  add(connection: LiveConnection): () => void {
    const id = this.#nextId++
    this.#byId.set(id, connection)
    const { podUid, direction } = connection
    const uid = direction === 'outbound' ? connection.destination.workload?.uid : undefined
    if (uid !== undefined) this.#load.set(uid, this.load(uid) + 1)
    const ofPod = direction === 'inbound' ? this.#ofPod(podUid) : undefined
    ofPod?.add(connection)
    return () => {
      this.#byId.delete(id)
      ofPod?.delete(connection)
      if (ofPod?.size === 0) this.#inboundOf.delete(podUid)
      if (uid === undefined) return
      const left = this.load(uid) - 1
      if (left > 0) this.#load.set(uid, left)
      else this.#load.delete(uid)
    }
  }

  #ofPod(uid: string): Set<LiveConnection> {
    let found = this.#inboundOf.get(uid)
    if (!found) this.#inboundOf.set(uid, (found = new Set()))
    return found
  }

  /** Outbound connections that are open to that workload. */
  load(uid: string): number {
    return this.#load.get(uid) ?? 0
  }

  inboundOf(podUid: string): readonly LiveConnection[] {
    return [...this.#inboundOf.get(podUid) ?? []]
  }

  entries(): IterableIterator<[number, LiveConnection]> {
    return this.#byId.entries()
  }

  get size(): number {
    return this.#byId.size
  }
}
