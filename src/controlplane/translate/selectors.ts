// Selectors and labels, each found through the other without looking at everything. A selector is filed under one of its own
// labels, a labelled thing under all of its labels; what is found is then compared in full.

type Labels = Readonly<Record<string, string>>

function pair(key: string, value: string): string {
  return `${key}=${value}`
}

export function matches(selector: Labels, labels: Labels): boolean {
  for (const key in selector) if (!Object.hasOwn(labels, key) || labels[key] !== selector[key]) return false
  return true
}

/** Which selectors of a namespace select something. A selector without labels must not be added. */
export class SelectorIndex {
  readonly #selectors = new Map<string, { readonly namespace: string; readonly labels: Labels }>()
  readonly #byPair = new Map<string, Map<string, Set<string>>>()

  set(key: string, namespace: string, labels: Labels): void {
    this.delete(key)
    this.#selectors.set(key, { namespace, labels })
    const [first = ['', '']] = Object.entries(labels)
    const byPair = getOrMake(this.#byPair, namespace, () => new Map<string, Set<string>>())
    getOrMake(byPair, pair(...first), () => new Set<string>()).add(key)
  }

  delete(key: string): void {
    const found = this.#selectors.get(key)
    if (!found) return
    this.#selectors.delete(key)
    const [first = ['', '']] = Object.entries(found.labels)
    const byPair = this.#byPair.get(found.namespace)
    const keys = byPair?.get(pair(...first))
    keys?.delete(key)
    if (keys?.size === 0) byPair?.delete(pair(...first))
    if (byPair?.size === 0) this.#byPair.delete(found.namespace)
  }

  get(key: string): { readonly namespace: string; readonly labels: Labels } | undefined {
    return this.#selectors.get(key)
  }

  /** Keys of the selectors, in no particular order. */
  select(namespace: string, labels: Labels): string[] {
    const found: string[] = []
    const byPair = this.#byPair.get(namespace)
    if (!byPair) return found
    for (const key in labels) {
      for (const selector of byPair.get(pair(key, labels[key] ?? '')) ?? []) {
        if (matches(this.#selectors.get(selector)?.labels ?? {}, labels)) found.push(selector)
      }
    }
    return found
  }
}

/** Which labelled things of a namespace a selector selects. */
export class LabelIndex {
  readonly #labels = new Map<string, { readonly namespace: string; readonly labels: Labels }>()
  readonly #byNamespace = new Map<string, { readonly all: Set<string>; readonly byPair: Map<string, Set<string>> }>()

  set(key: string, namespace: string, labels: Labels): void {
    this.delete(key)
    this.#labels.set(key, { namespace, labels })
    const { all, byPair } = getOrMake(this.#byNamespace, namespace, () => ({ all: new Set<string>(), byPair: new Map<string, Set<string>>() }))
    all.add(key)
    for (const name in labels) getOrMake(byPair, pair(name, labels[name] ?? ''), () => new Set<string>()).add(key)
  }

  delete(key: string): void {
    const found = this.#labels.get(key)
    if (!found) return
    this.#labels.delete(key)
    const held = this.#byNamespace.get(found.namespace)
    if (!held) return
    held.all.delete(key)
    if (held.all.size === 0) return void this.#byNamespace.delete(found.namespace)
    for (const name in found.labels) {
      const id = pair(name, found.labels[name] ?? '')
      const keys = held.byPair.get(id)
      keys?.delete(key)
      if (keys?.size === 0) held.byPair.delete(id)
    }
  }

  /** Keys of all in a namespace; of everything without one. */
  *all(namespace?: string): Generator<string> {
    if (namespace === undefined) yield* this.#labels.keys()
    else yield* this.#byNamespace.get(namespace)?.all ?? []
  }

  /** Keys of what has all labels of a selector that has some; in every namespace without one. */
  *select(namespace: string | undefined, selector: Labels): Generator<string> {
    const namespaces = namespace === undefined ? this.#byNamespace.values() : [this.#byNamespace.get(namespace)]
    for (const held of namespaces) {
      let fewest: Set<string> | undefined
      for (const name in selector) {
        const keys = held?.byPair.get(pair(name, selector[name] ?? ''))
        if (!keys) {
          fewest = undefined
          break
        }
        if (!fewest || keys.size < fewest.size) fewest = keys
      }
      for (const key of fewest ?? []) if (matches(selector, this.#labels.get(key)?.labels ?? {})) yield key
    }
  }
}

export function getOrMake<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  let value = map.get(key)
  if (value === undefined) {
    value = make()
    map.set(key, value)
  }
  return value
}

/** Many values for a key; a key without values is not there. */
export class MultiMap {
  readonly #map = new Map<string, Set<string>>()

  add(key: string, value: string): void {
    getOrMake(this.#map, key, () => new Set<string>()).add(value)
  }

  delete(key: string, value: string): void {
    const values = this.#map.get(key)
    values?.delete(value)
    if (values?.size === 0) this.#map.delete(key)
  }

  get(key: string): ReadonlySet<string> {
    return this.#map.get(key) ?? none
  }
}

const none: ReadonlySet<string> = new Set()
