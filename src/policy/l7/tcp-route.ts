// Which TCP or TLS rule gets a connection: by the server name of its ClientHello, the most specific name first, then the order
// of the rules. Without a ClientHello only rules that ask for no name hold.
import type { RouteTable, TcpRule } from '../../model/route.ts'

export class TcpRoutes {
  readonly #exact = new Map<string, TcpRule>()
  /** By suffix with its leading dot. */
  readonly #wildcard = new Map<string, TcpRule>()
  #any: TcpRule | undefined

  constructor({ tcp }: RouteTable) {
    for (const rule of tcp) {
      if (rule.serverNames.length === 0) this.#any ??= rule
      for (const name of rule.serverNames.map((each) => each.toLowerCase())) {
        if (name === '*') this.#any ??= rule
        else if (name.startsWith('*.')) setFirst(this.#wildcard, name.slice(1), rule)
        else setFirst(this.#exact, name, rule)
      }
    }
  }

  /** `serverName` as the client sent it; undefined for a connection without one. */
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

function setFirst(map: Map<string, TcpRule>, name: string, rule: TcpRule): void {
  if (!map.has(name)) map.set(name, rule)
}
