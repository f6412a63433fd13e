// All resources of one type, in the order of their last change. A subscriber's progress is one number: what changed after it
// is the tail of the log, so a push costs what changed and not the size of the mesh, and a slow node that is many changes
// behind gets each resource once. Names of removed resources stay in the log while somebody may not know of the removal.
import { hash } from 'node:crypto'
import { encodeFrame } from './frames.ts'
import type { ResourceType } from './resource-types.ts'
import { typeUrls } from './resource-types.ts'

export interface Entry {
  readonly name: string
  readonly version: string
  readonly aliases: readonly string[]
  /** Names of resources that whoever asks for them wants this one with: a workload's services. */
  readonly memberOf: readonly string[]
  /** As it goes into a response. */
  readonly frame: Uint8Array
  readonly seq: number
}

export interface NewEntry {
  readonly name: string
  readonly aliases: readonly string[]
  readonly memberOf: readonly string[]
  readonly value: Uint8Array
}

interface Item {
  readonly seq: number
  readonly name: string
}

export class ResourceLog {
  readonly type: ResourceType
  readonly #entries = new Map<string, Entry>()
  readonly #tombstones = new Map<string, number>()
  readonly #byAlias = new Map<string, Set<string>>()
  readonly #members = new Map<string, Set<string>>()
  #items: Item[] = []
  #seq = 0
  #floor = 0

  constructor(type: ResourceType) {
    this.type = type
  }

  /** Number of the last change. */
  get seq(): number {
    return this.#seq
  }

  /** Progress before this number is lost: removals after it may have been forgotten. */
  get floor(): number {
    return this.#floor
  }

  get size(): number {
    return this.#entries.size
  }

  get(name: string): Entry | undefined {
    return this.#entries.get(name)
  }

  names(): IterableIterator<string> {
    return this.#entries.keys()
  }

  /** Resources of that name or alias. */
  find(name: string): Entry[] {
    const found = this.#entries.get(name)
    return found ? [found] : this.#all(this.#byAlias.get(name))
  }

  /** Resources that come with the one named. */
  membersOf(name: string): Entry[] {
    return this.#all(this.#members.get(name))
  }

  /** Whether anything changed: the same content is no change. */
  set({ name, aliases, memberOf, value }: NewEntry): boolean {
    const version = hash('sha256', value, 'base64url').slice(0, 22)
    const before = this.#entries.get(name)
    if (before?.version === version) return false
    if (before) this.#unindex(before)
    this.#tombstones.delete(name)
    const seq = this.#append(name)
    const frame = encodeFrame({ name, version, aliases, value }, typeUrls[this.type])
    const entry: Entry = { name, version, aliases, memberOf, frame, seq }
    this.#entries.set(name, entry)
    for (const alias of aliases) index(this.#byAlias, alias, name)
    for (const owner of memberOf) index(this.#members, owner, name)
    return true
  }

  remove(name: string): boolean {
    const before = this.#entries.get(name)
    if (!before) return false
    this.#unindex(before)
    this.#entries.delete(name)
    this.#tombstones.set(name, this.#append(name))
    return true
  }

  /** Changes after `seq`, oldest first, each name at its last change; the entry is undefined for a removal. */
  *since(seq: number): Generator<{ readonly seq: number; readonly name: string; readonly entry: Entry | undefined }> {
    for (let at = this.#firstAfter(seq); at < this.#items.length; at++) {
      const item = this.#items[at]
      if (!item) return
      const entry = this.#entries.get(item.name)
      if (entry ? entry.seq === item.seq : this.#tombstones.get(item.name) === item.seq) yield { ...item, entry }
    }
  }

  /** Forgets removals up to `oldestProgress`, and the oldest beyond `maxTombstones` whoever has not seen them. */
  compact(oldestProgress: number, maxTombstones: number): void {
    let excess = this.#tombstones.size - maxTombstones
    for (const [name, seq] of this.#tombstones) {
      if (seq > oldestProgress) {
        if (excess <= 0) break
        this.#floor = seq
      }
      this.#tombstones.delete(name)
      excess -= 1
    }
    if (this.#items.length <= 2 * (this.#entries.size + this.#tombstones.size) + 1000) return
    this.#items = this.#items.filter(({ seq, name }) => (this.#entries.get(name)?.seq ?? this.#tombstones.get(name)) === seq)
  }

  #append(name: string): number {
    this.#seq += 1
    this.#items.push({ seq: this.#seq, name })
    return this.#seq
  }

  #firstAfter(seq: number): number {
    let low = 0
    let high = this.#items.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#items[middle]?.seq ?? 0) > seq) high = middle
      else low = middle + 1
    }
    return low
  }

  #all(names: ReadonlySet<string> | undefined): Entry[] {
    const entries: Entry[] = []
    for (const name of names ?? []) {
      const entry = this.#entries.get(name)
      if (entry) entries.push(entry)
    }
    return entries
  }

  #unindex({ name, aliases, memberOf }: Entry): void {
    for (const alias of aliases) unindex(this.#byAlias, alias, name)
    for (const owner of memberOf) unindex(this.#members, owner, name)
  }
}

/** What a subscriber may read of a log. */
export type LogView = Pick<ResourceLog, 'seq' | 'floor' | 'get' | 'find' | 'membersOf' | 'since'>

/** Only the resources whose names begin with the prefix; none without one. For everything else there is no such name. */
export class PrefixView implements LogView {
  readonly #log: ResourceLog
  readonly #prefix: string | undefined

  constructor(log: ResourceLog, prefix: string | undefined) {
    this.#log = log
    this.#prefix = prefix
  }

  get seq(): number {
    return this.#log.seq
  }

  get floor(): number {
    return this.#log.floor
  }

  get(name: string): Entry | undefined {
    return this.#shows(name) ? this.#log.get(name) : undefined
  }

  find(name: string): Entry[] {
    return this.#log.find(name).filter((entry) => this.#shows(entry.name))
  }

  membersOf(name: string): Entry[] {
    return this.#log.membersOf(name).filter((entry) => this.#shows(entry.name))
  }

  *since(seq: number): ReturnType<ResourceLog['since']> {
    for (const change of this.#log.since(seq)) if (this.#shows(change.name)) yield change
  }

  #shows(name: string): boolean {
    return this.#prefix !== undefined && name.startsWith(this.#prefix)
  }
}

function index(map: Map<string, Set<string>>, key: string, name: string): void {
  const names = map.get(key)
  if (names) names.add(name)
  else map.set(key, new Set([name]))
}

function unindex(map: Map<string, Set<string>>, key: string, name: string): void {
  const names = map.get(key)
  names?.delete(name)
  if (names?.size === 0) map.delete(key)
}
