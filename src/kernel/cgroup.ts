// Finding the root of cgroup2, to which the hooks attach. Hybrid hosts have it under unified/: it is found, not assumed.
import { readFileSync } from 'node:fs'
import { MeshError } from '../core/errors.ts'
import { parseMounts } from './host-facts.ts'

/** Throws CGROUP2_MISSING. */
export function findCgroup2(mounts = readFileSync('/proc/mounts', 'utf8')): string {
  const mount = parseMounts(mounts).find(({ type }) => type === 'cgroup2')
  if (!mount) throw new MeshError('CGROUP2_MISSING', 'no cgroup2 file system is mounted')
  return mount.path
}
