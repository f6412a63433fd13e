// How many connections the process carries at once: each holds two descriptors, and running out of those would take down more than
// the newcomer. Beyond the limit new connections are refused, standing ones are not touched. No pod can take it all: the less is
// left, the less a pod that holds much may have of it, so that its neighbours always find some.
import { readFileSync } from 'node:fs'

/** Descriptors kept for listeners, DNS, logs and the rest. */
const reserved = 1_024
/**
 * A pod may hold so many times what is free (dynamic thresholds: Choudhury and Hahne, 1998). A pod alone gets eight ninths of the
 * limit, two greedy ones eight seventeenths each, and there is a rest for everybody else.
 */
const greed = 8

/** One pod's part of the limit. */
export interface ConnectionShare {
  /** False where the limit, or what a pod may have of it, is reached; otherwise release() must follow once. */
  acquire(): boolean
  release(): void
}

export class ConnectionLimit {
  readonly limit: number
  #open = 0

  constructor(limit: number) {
    this.limit = limit
  }

  get open(): number {
    return this.#open
  }

  /** A share of its own for each pod; it ends with whoever holds it. */
  share(): ConnectionShare {
    let held = 0
    return {
      acquire: () => {
        if (held >= greed * (this.limit - this.#open)) return false
        held++
        this.#open++
        return true
      },
      release: () => {
        held--
        this.#open--
      },
    }
  }
}

/** Connections that the open files limit allows; `text` is /proc/self/limits. */
export function limitFromOpenFiles(text = readFileSync('/proc/self/limits', 'utf8')): number {
  const soft = Number(/^Max open files\s+(\d+)/m.exec(text)?.[1] ?? 1_024)
  return Math.max(16, Math.floor((soft - Math.min(reserved, soft / 2)) / 2))
}

/**
 * Tunnels' connections that peers may have to this node's pods, with those that only knock: they hold a descriptor before anybody
 * knows whether they will carry something, and after. Of what is reserved, so that neither can take the other's.
 */
export function doorLimit(connections = limitFromOpenFiles()): number {
  return Math.max(16, Math.floor(connections / 4))
}

/** Handshakes at the door of one pod. */
export function handshakeLimit(doors: number): number {
  return Math.min(256, Math.max(8, Math.floor(doors / 4)))
}
