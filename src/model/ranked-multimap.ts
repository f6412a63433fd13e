// A map from a key to several values in a fixed order, for indexes in which two holders may claim one key (an address in
// use twice, a hostname in two namespaces). The order depends on the values alone, never on who came first. Made for few
// holders per key: adding one sorts them.

export class RankedMultimap<K, V> {
  // Most keys have one value: it is stored bare, without a list.
  readonly #single = new Map<K, V>()
  readonly #several = new Map<K, readonly V[]>()
  readonly #compare: (a: V, b: V) => number

  /** `compare` must never be 0 for values that are not the same. */
  constructor(compare: (a: V, b: V) => number) {
    this.#compare = compare
  }

  add(key: K, value: V): void {
    const list = this.#several.get(key)
    const single = this.#single.get(key)
    if (list) this.#several.set(key, [...list, value].sort(this.#compare))
    else if (single === undefined) this.#single.set(key, value)
    else {
      this.#single.delete(key)
      this.#several.set(key, [single, value].sort(this.#compare))
    }
  }

  /** Removes this very value, compared as objects are. */
  remove(key: K, value: V): void {
    if (this.#single.get(key) === value) this.#single.delete(key)
    const rest = this.#several.get(key)?.filter((other) => other !== value)
    if (!rest) return
    const [last] = rest
    if (rest.length === 1 && last !== undefined) {
      this.#several.delete(key)
      this.#single.set(key, last)
    } else this.#several.set(key, rest)
  }

  /** The value that ranks first. */
  first(key: K): V | undefined {
    return this.#single.get(key) ?? this.#several.get(key)?.[0]
  }

  /** All values, best first. */
  all(key: K): readonly V[] {
    const single = this.#single.get(key)
    return single === undefined ? (this.#several.get(key) ?? []) : [single]
  }
}
