// Finds, of many rules in order, the first that holds without trying all: by whole path, by segments from the left, and within a
// long list by a value that the request must have (a header, the host, the method). Says nothing that trying each rule
// in order does not say; route-table.test.ts compares the two.
import { authorityKey, methodKey, type CompiledMatch, type RequestView } from './route-match.ts'

export interface Indexed {
  /** Position in the order of decision. */
  readonly order: number
  readonly match: CompiledMatch
}

/** Lists up to this length are simply tried. */
const shortList = 8

/** Entries in order; longer ones are divided by the value of one header (or host, or method). */
class Bucket<E extends Indexed> {
  #list: E[] = []
  #key: string | undefined
  #byValue = new Map<string, Bucket<E>>()

  add(entry: E): void {
    this.#list.push(entry)
  }

  /** Call once, after the last add. */
  seal(used: readonly string[] = []): this {
    this.#list.sort((a, b) => a.order - b.order)
    if (this.#list.length <= shortList || used.length > 2) return this
    const values = new Map<string, Set<string>>()
    for (const { match } of this.#list) {
      for (const { name, value } of match.keys) {
        let seen = values.get(name)
        if (!seen) values.set(name, (seen = new Set()))
        seen.add(value)
      }
    }
    let best: { readonly name: string; readonly count: number } | undefined
    for (const [name, seen] of values) {
      if (!used.includes(name) && seen.size > (best?.count ?? 1)) best = { name, count: seen.size }
    }
    if (!best) return this
    const { name } = best
    this.#key = name
    const rest: E[] = []
    for (const entry of this.#list) {
      // A name that is asked twice with different values holds never or for joined values: left to be tried.
      const wanted = entry.match.keys.filter((key) => key.name === name)
      const [only] = wanted
      if (wanted.length !== 1 || !only) {
        rest.push(entry)
        continue
      }
      let bucket = this.#byValue.get(only.value)
      if (!bucket) this.#byValue.set(only.value, (bucket = new Bucket<E>()))
      bucket.add(entry)
    }
    this.#list = rest
    for (const bucket of this.#byValue.values()) bucket.seal([...used, name])
    return this
  }

  /** The first that holds and comes before `best`. */
  first(view: RequestView, best: E | undefined): E | undefined {
    let found = best
    if (this.#key !== undefined) {
      const value = valueOf(view, this.#key)
      const bucket = value === undefined ? undefined : this.#byValue.get(value)
      if (bucket) found = bucket.first(view, found)
    }
    for (const entry of this.#list) {
      if (found && entry.order > found.order) break
      if (entry.match.holds(view)) return entry
    }
    return found
  }
}

function valueOf(view: RequestView, key: string): string | undefined {
  if (key === authorityKey) return view.host
  if (key === methodKey) return view.head.method
  return view.head.headers.get(key)
}

class Node<E extends Indexed> {
  readonly children = new Map<string, Node<E>>()
  readonly here = new Bucket<E>()
  /** The only child, found by comparing in place: most tables begin with segments that all rules share. */
  #only: { readonly segment: string; readonly node: Node<E> } | undefined

  /** The child for the segment of `path` from `start` to `end`. */
  child(path: string, start: number, end: number): Node<E> | undefined {
    if (!this.#only) return this.children.get(path.slice(start, end))
    const { segment, node } = this.#only
    return end - start === segment.length && path.startsWith(segment, start) ? node : undefined
  }

  seal(): void {
    this.here.seal()
    if (this.children.size === 1) for (const [segment, node] of this.children) this.#only = { segment, node }
    for (const child of this.children.values()) child.seal()
  }
}

export class RouteIndex<E extends Indexed> {
  readonly #exact = new Map<string, Bucket<E>>()
  /** Rules for all paths, and the prefixes of one segment, two ... */
  readonly #root = new Node<E>()

  constructor(entries: Iterable<E>) {
    for (const entry of entries) this.#add(entry)
    for (const bucket of this.#exact.values()) bucket.seal()
    this.#root.seal()
  }

  /** The first entry in order whose match holds. */
  first(view: RequestView): E | undefined {
    const { path } = view
    let best = this.#exact.get(path)?.first(view, undefined)
    let node = this.#root
    best = node.here.first(view, best)
    // Goes no deeper than the rules do, however many segments a request has.
    let start = 1
    while (node.children.size > 0 && start <= path.length) {
      const slash = path.indexOf('/', start)
      const end = slash < 0 ? path.length : slash
      const child = node.child(path, start, end)
      if (!child) break
      best = child.here.first(view, best)
      node = child
      start = end + 1
    }
    return best
  }

  #add(entry: E): void {
    const { place } = entry.match
    if (place.t === 'exact') {
      let bucket = this.#exact.get(place.path)
      if (!bucket) this.#exact.set(place.path, (bucket = new Bucket<E>()))
      bucket.add(entry)
      return
    }
    let node = this.#root
    if (place.t === 'under') {
      for (const segment of place.prefix.split('/')) {
        if (segment === '') continue
        let child = node.children.get(segment)
        if (!child) node.children.set(segment, (child = new Node<E>()))
        node = child
      }
    }
    node.here.add(entry)
  }
}
