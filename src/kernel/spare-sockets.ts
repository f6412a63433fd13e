// Unconnected sockets of one network namespace, made ahead of need. Only making a socket needs the namespace, and with it the
// thread that enters namespaces; connecting one does not, and over a loopback it is done when the call returns. So who connects
// often is spared two changes of threads for each connection. Never keeps a namespace's sockets for long without need, nor many.
import { native } from './native.ts'
import type { NativeSocketOptions, OwnedFd } from './native.ts'

/** Connects that follow each other faster than this are worth making sockets ahead. */
const busyMs = 100
const batch = 16
const refillBelow = 8
/** In all namespaces together: descriptors that nobody uses at the time. */
const mostSpare = 256
const idleMs = 1_000

type Family = 'ip4' | 'ip6'

let spare = 0
const stocked = new Set<SpareSockets>()
let sweeper: NodeJS.Timeout | undefined

function sweep(): void {
  const before = performance.now() - idleMs
  for (const sockets of stocked) if (sockets.usedAtMs < before) sockets.drop()
  if (stocked.size > 0) return
  clearInterval(sweeper)
  sweeper = undefined
}

export class SpareSockets {
  /** Of performance.now(). */
  usedAtMs = Number.NEGATIVE_INFINITY
  readonly #netns: OwnedFd
  readonly #stock: Record<Family, OwnedFd[]> = { ip4: [], ip6: [] }
  #isRefilling = false
  #isClosed = false

  constructor(netns: OwnedFd) {
    this.#netns = netns
  }

  /** A socket that the caller owns, or undefined where there is none: then one is made the slow way. */
  take(family: Family): OwnedFd | undefined {
    const nowMs = performance.now()
    const isBusy = nowMs - this.usedAtMs < busyMs
    this.usedAtMs = nowMs
    const stock = this.#stock[family]
    const taken = stock.pop()
    if (taken) spare--
    if (isBusy && stock.length < refillBelow && !this.#isRefilling && !this.#isClosed && spare + batch <= mostSpare) void this.#refill(family)
    return taken
  }

  async #refill(family: Family): Promise<void> {
    this.#isRefilling = true
    spare += batch
    let made: OwnedFd[] = []
    try {
      made = await native().makeTcpSockets(this.#netns, family === 'ip6', batch)
    } catch {
      // Whoever connects next makes a socket of its own, and is told what the matter is.
    } finally {
      spare -= batch
      this.#isRefilling = false
    }
    if (this.#isClosed) {
      for (const socket of made) socket.close()
      return
    }
    this.#stock[family].push(...made)
    spare += made.length
    stocked.add(this)
    sweeper ??= setInterval(sweep, idleMs).unref()
  }

  /** Closes what waits. */
  drop(): void {
    for (const stock of Object.values(this.#stock)) {
      spare -= stock.length
      for (const socket of stock.splice(0)) socket.close()
    }
    stocked.delete(this)
  }

  /** For good. */
  close(): void {
    this.#isClosed = true
    this.drop()
  }
}

/** Connects a socket that take() gave, which is closed if that fails. Undefined: its port is taken, so another is needed. Rejects with CONNECT_*, or SYSCALL_FAILED. */
export async function connectSpare(socket: OwnedFd, options: NativeSocketOptions & { readonly timeoutMs: number }): Promise<OwnedFd | undefined> {
  let connected: OwnedFd | undefined
  try {
    const outcome = native().connectMade(socket, options)
    if (outcome === 0) connected = socket
    else if (outcome === 1) connected = await native().awaitConnect(socket, options.timeoutMs)
    return connected
  } finally {
    if (connected !== socket) socket.close()
  }
}
