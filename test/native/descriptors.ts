// Counts this process's descriptors of the kinds that the addon makes. Others (files that a module loader opens, pipes)
// come and go on their own and are left out.
import { readdirSync, readlinkSync } from 'node:fs'

const kinds = /^(socket:|net:|anon_inode:(bpf|\[eventpoll\]|\[eventfd\])|\/proc\/.*\/ns\/)/

/** Kind to number, like `{ 'anon_inode:bpf-map': 12 }`. */
export function descriptors(): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const fd of readdirSync('/proc/self/fd')) {
    let target: string
    try {
      target = readlinkSync(`/proc/self/fd/${fd}`)
    } catch {
      continue // the directory's own descriptor, closed by now
    }
    if (!kinds.test(target)) continue
    const kind = target.replace(/:\[\d+\]$/, '')
    counts[kind] = (counts[kind] ?? 0) + 1
  }
  return counts
}

export function descriptorCount(): number {
  return Object.values(descriptors()).reduce((sum, count) => sum + count, 0)
}
