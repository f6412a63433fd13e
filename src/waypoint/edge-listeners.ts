// Which listener of a port a connection or request belongs to: the one with the most specific hostname, and no other, whether
// or not it has a rule. Pure.
import type { GatewayListener } from '../model/route.ts'

export class PortListeners {
  readonly port: number
  readonly all: readonly GatewayListener[]
  readonly #exact = new Map<string, GatewayListener>()
  /** By suffix with its leading dot. */
  readonly #wildcard = new Map<string, GatewayListener>()
  readonly #any: GatewayListener | undefined

  constructor(port: number, listeners: readonly GatewayListener[]) {
    this.port = port
    this.all = listeners
    for (const listener of listeners) {
      const hostname = listener.hostname?.toLowerCase()
      if (hostname === undefined || hostname === '*') this.#any ??= listener
      else if (hostname.startsWith('*.')) setFirst(this.#wildcard, hostname.slice(1), listener)
      else setFirst(this.#exact, hostname, listener)
    }
  }

  /** `host` in lower case, without port and last dot: a request's, or the server name of a ClientHello. */
  of(host: string | undefined): GatewayListener | undefined {
    if (host === undefined) return this.#any
    const exact = this.#exact.get(host)
    if (exact) return exact
    // For any number of labels before it, and not for the name itself.
    for (let dot = host.indexOf('.', 1); dot > 0; dot = host.indexOf('.', dot + 1)) {
      const found = this.#wildcard.get(host.slice(dot))
      if (found) return found
    }
    return this.#any
  }
}

function setFirst(map: Map<string, GatewayListener>, name: string, listener: GatewayListener): void {
  if (!map.has(name)) map.set(name, listener)
}

/** By port. The order of what shares a port is that of the list. */
export function byPort(listeners: readonly GatewayListener[]): Map<number, PortListeners> {
  const lists = new Map<number, GatewayListener[]>()
  for (const listener of listeners) {
    const list = lists.get(listener.port)
    if (list) list.push(listener)
    else lists.set(listener.port, [listener])
  }
  return new Map([...lists].map(([port, list]) => [port, new PortListeners(port, list)]))
}
