// How many connections the process carries at once: each holds two descriptors, and running out of those would take
// down more than the newcomer. Beyond the limit new connections are refused, standing ones are not touched.
import { readFileSync } from 'node:fs'

/** Descriptors kept for listeners, DNS, logs and the rest. */
const reserved = 1_024

export class ConnectionLimit {
  readonly limit: number
  #open = 0

  constructor(limit: number) {
    this.limit = limit
  }

  get open(): number {
    return this.#open
  }

  /** False where the limit is reached; otherwise release() must follow once. */
  acquire(): boolean {
    if (this.#open >= this.limit) return false
    this.#open++
    return true
  }

  release(): void {
    this.#open--
  }
}

/** Connections that the open files limit allows; `text` is /proc/self/limits. */
export function limitFromOpenFiles(text = readFileSync('/proc/self/limits', 'utf8')): number {
  const soft = Number(/^Max open files\s+(\d+)/m.exec(text)?.[1] ?? 1_024)
  return Math.max(16, Math.floor((soft - Math.min(reserved, soft / 2)) / 2))
}
