// Which TCP or TLS rule gets a connection: by who connects and by the server name of its ClientHello, the most specific name
// first, then the order of the rules. Without a ClientHello only rules that ask for no name hold. Rules for the callers of one
// namespace that end with one for every name close the list for them: what comes after is not tried, however well its name
// fits.
import type { RouteTable, TcpRule } from '../../model/route.ts'

class Names {
  readonly #exact = new Map<string, TcpRule>()
  /** By suffix with its leading dot. */
  readonly #wildcard = new Map<string, TcpRule>()
  #any: TcpRule | undefined

  constructor(rules: readonly TcpRule[]) {
    for (const rule of rules) {
      if (rule.serverNames.length === 0) this.#any ??= rule
      for (const name of rule.serverNames.map((each) => each.toLowerCase())) {
        if (name === '*') this.#any ??= rule
        else if (name.startsWith('*.')) setFirst(this.#wildcard, name.slice(1), rule)
        else setFirst(this.#exact, name, rule)
      }
    }
  }

  match(serverName: string | undefined): TcpRule | undefined {
    if (serverName === undefined || serverName.length > 255) return this.#any
    const name = serverName.toLowerCase()
    const host = name.endsWith('.') ? name.slice(0, -1) : name
    const exact = this.#exact.get(host)
    if (exact) return exact
    for (let dot = host.indexOf('.', 1); dot > 0; dot = host.indexOf('.', dot + 1)) {
      const rule = this.#wildcard.get(host.slice(dot))
      if (rule) return rule
    }
    return this.#any
  }
}

export class TcpRoutes {
  /** Whether there are rules at all. */
  readonly isEmpty: boolean
  /** Whether a rule asks for a server name. */
  readonly hasServerNames: boolean
  readonly #everybody: Names
  /** Of the namespaces that rules name. */
  readonly #callers = new Map<string, Names>()

  constructor(tables: readonly Pick<RouteTable, 'tcp'>[]) {
    const rules = tables.flatMap(({ tcp }) => tcp)
    this.isEmpty = rules.length === 0
    this.hasServerNames = rules.some(({ serverNames }) => serverNames.length > 0)
    this.#everybody = new Names(rules.filter(({ sourceNamespaces }) => sourceNamespaces === undefined))
    for (const namespace of new Set(rules.flatMap(({ sourceNamespaces = [] }) => sourceNamespaces))) {
      const visible = rules.filter(({ sourceNamespaces }) => sourceNamespaces === undefined || sourceNamespaces.includes(namespace))
      const last = visible.findIndex(({ sourceNamespaces, serverNames }) => sourceNamespaces !== undefined && serverNames.length === 0)
      this.#callers.set(namespace, new Names(last < 0 ? visible : visible.slice(0, last + 1)))
    }
  }

  /** `serverName` as the client sent it; undefined for a connection without one. `namespace` is that of a proven caller. */
  match(serverName: string | undefined, namespace: string | undefined): TcpRule | undefined {
    return ((namespace === undefined ? undefined : this.#callers.get(namespace)) ?? this.#everybody).match(serverName)
  }
}

function setFirst(map: Map<string, TcpRule>, name: string, rule: TcpRule): void {
  if (!map.has(name)) map.set(name, rule)
}
