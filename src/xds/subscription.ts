// What one node has been told about one type of resource, and so what it has to be told next. Pure state: the stream around it
// sends what `next` returns and reports the answer. At most one push waits for its answer; changes in the meantime coalesce.
import type { Entry, LogView } from './resource-log.ts'

export interface Push {
  readonly frames: readonly Uint8Array[]
  /** Names of the resources in `frames`. */
  readonly names: readonly string[]
  readonly removed: readonly string[]
}

export interface Interest {
  readonly subscribe: readonly string[]
  readonly unsubscribe: readonly string[]
}

export class Subscription {
  readonly #log: LogView
  readonly #maxBytes: number
  readonly #names = new Set<string>()
  /** By name to version: on demand all that the node holds; with everything subscribed only until the first pass is through. */
  #known: Map<string, string>
  #isWildcard: boolean
  #position = 0
  #ahead = 0
  /** Removals before this are no news to a node that never heard of the resource. */
  #bornAt = 0
  /** Names to be answered even if nothing changed. */
  readonly #asked = new Set<string>()
  #isFirst = true

  constructor(log: LogView, first: Interest & { readonly initialVersions: Readonly<Record<string, string>> }, maxBytes: number) {
    this.#log = log
    this.#maxBytes = maxBytes
    this.#known = new Map(Object.entries(first.initialVersions))
    this.#isWildcard = first.subscribe.length === 0
    this.#change(first, false)
  }

  /** Number of the last change the node was sent. */
  get position(): number {
    return this.#position
  }

  get isWildcard(): boolean {
    return this.#isWildcard
  }

  /** How many names are asked for. */
  get size(): number {
    return this.#names.size
  }

  /** Number of the last change before which the node was sent all but removals. */
  get ahead(): number {
    return Math.max(this.#ahead, this.#position)
  }

  /** Whether nothing was pushed yet. */
  get isFirst(): boolean {
    return this.#isFirst
  }

  /** Whether removals that the node has not heard of were forgotten: it has to begin anew. */
  get isLost(): boolean {
    return !this.#isFirst && this.#position < this.#log.floor
  }

  change(interest: Interest): void {
    this.#change(interest, true)
  }

  #change({ subscribe, unsubscribe }: Interest, isLater: boolean): void {
    for (const name of subscribe) {
      if (name === '*') {
        this.#isWildcard = true
        continue
      }
      this.#names.add(name)
      // With versions from before, only what differs is sent; a name asked for later is always answered.
      const holds = this.#log.find(name).some((entry) => this.#known.get(entry.name) === entry.version)
      if (isLater || !holds) this.#asked.add(name)
    }
    for (const name of unsubscribe) {
      if (name === '*') this.#isWildcard = false
      this.#names.delete(name)
      this.#asked.delete(name)
      if (!this.#isWildcard) for (const entry of this.#log.find(name)) this.#known.delete(entry.name)
    }
  }

  /**
   * The next push, which is then taken as sent; undefined if the node is up to date. The first is there even if empty, and whole;
   * later ones may do without removals, which then wait.
   */
  next(withoutRemovals = false): Push | undefined {
    if (!this.#isFirst && this.#position === this.#log.seq && this.#asked.size === 0) return undefined
    const draft = new Draft(this.#maxBytes)
    if (this.#isFirst) this.#removeGone(draft)
    this.#answerAsked(draft)
    if (withoutRemovals && !this.#isFirst) this.#scanAhead(draft)
    else this.#scan(draft)
    if (!this.#isFirst && draft.isEmpty) return undefined
    this.#isFirst = false
    return draft
  }

  /** What the node holds from before and is gone now. Not at birth: until the first push the log may forget removals. */
  #removeGone(draft: Draft): void {
    this.#bornAt = this.#log.seq
    for (const name of this.#known.keys()) {
      if (this.#log.get(name)) continue
      this.#known.delete(name)
      draft.removed.push(name)
    }
  }

  #answerAsked(draft: Draft): void {
    for (const name of this.#asked) {
      if (draft.isFull) return
      this.#asked.delete(name)
      const entries = this.#log.find(name)
      if (entries.length === 0) draft.removed.push(name)
      for (const entry of entries) this.#send(entry, draft)
    }
  }

  #send(entry: Entry, draft: Draft): void {
    draft.add(entry)
    if (this.#isWildcard) return
    this.#known.set(entry.name, entry.version)
    for (const member of this.#log.membersOf(entry.name)) {
      if (this.#known.get(member.name) === member.version) continue
      this.#known.set(member.name, member.version)
      draft.add(member)
    }
  }

  #scan(draft: Draft): void {
    for (const { seq, name, entry } of this.#log.since(this.#position)) {
      if (draft.isFull) return
      if (!entry) this.#scannedRemoval(name, seq, draft)
      else if (seq > this.#ahead) this.#scanned(entry, draft)
      this.#position = seq
    }
    this.#position = this.#log.seq
    // From here on the position tells it all.
    if (this.#isWildcard && this.#known.size > 0) this.#known = new Map()
  }

  #scanAhead(draft: Draft): void {
    for (const { seq, entry } of this.#log.since(this.ahead)) {
      if (draft.isFull) return
      if (entry) this.#scanned(entry, draft)
      this.#ahead = seq
    }
    this.#ahead = this.#log.seq
  }

  #scanned(entry: Entry, draft: Draft): void {
    const known = this.#known.get(entry.name)
    if (this.#isWildcard) {
      this.#known.delete(entry.name)
      if (known !== entry.version) draft.add(entry)
    } else if (known !== entry.version && (known !== undefined || this.#isWanted(entry))) {
      this.#send(entry, draft)
    }
  }

  #scannedRemoval(name: string, seq: number, draft: Draft): void {
    const isKnown = this.#known.delete(name)
    if (isKnown || (this.#isWildcard && seq > this.#bornAt)) draft.removed.push(name)
  }

  #isWanted({ name, aliases, memberOf }: Entry): boolean {
    if (this.#names.has(name) || aliases.some((alias) => this.#names.has(alias))) return true
    return memberOf.some((owner) => this.#names.has(owner) || (this.#log.get(owner)?.aliases.some((alias) => this.#names.has(alias)) ?? false))
  }
}

class Draft implements Push {
  readonly frames: Uint8Array[] = []
  readonly names: string[] = []
  readonly removed: string[] = []
  readonly #maxBytes: number
  readonly #added = new Set<string>()
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get isFull(): boolean {
    return this.#bytes >= this.#maxBytes
  }

  get isEmpty(): boolean {
    return this.names.length === 0 && this.removed.length === 0
  }

  add({ name, frame }: Entry): void {
    if (this.#added.has(name)) return
    this.#added.add(name)
    this.frames.push(frame)
    this.names.push(name)
    this.#bytes += frame.length
  }
}
