// Whether a network namespace is a pod's own: only then may traffic in it have the pod's identity. Proof is that it is not the node's,
// that it has all of the pod's addresses, and that nobody else claims it. Who else sits in it does not matter; what a pod says of
// itself does not count.
import { setTimeout as sleep } from 'node:timers/promises'
import { describeError } from '../core/errors.ts'
import { Netns } from '../kernel/netns.ts'

export type Proof =
  | { readonly t: 'proven'; readonly netns: Netns }
  /** `because` is a sentence without its full stop. */
  | { readonly t: 'refused'; readonly because: string }

export interface ProofOptions {
  /** The pod's, canonical; not empty. */
  readonly ips: readonly string[]
  /** Inode of the node's own namespace. */
  readonly hostInode: bigint
  /** Who else has the namespace of that inode; undefined for nobody. */
  readonly claimant: (inode: bigint) => string | undefined
  /** How long to wait for an IPv6 address that is still being checked for duplicates. */
  readonly waitMs?: number
}

const lookEveryMs = 100

/** A proven namespace is open, and the caller's to close. */
export async function proveNetns(path: string, { ips, hostInode, claimant, waitMs = 0 }: ProofOptions): Promise<Proof> {
  let netns: Netns
  try {
    netns = await Netns.open(path)
  } catch (error) {
    return { t: 'refused', because: `${path} opens no network namespace (${describeError(error)})` }
  }
  let isProven = false
  try {
    if (netns.inode === hostInode) return { t: 'refused', because: `${path} is the node's own namespace` }
    const other = claimant(netns.inode)
    if (other !== undefined) return { t: 'refused', because: `the namespace at ${path} is that of ${other}` }
    const missing = await missingAddresses(netns, ips, waitMs)
    if (missing.length > 0) return { t: 'refused', because: `the namespace at ${path} does not have the pod's address ${missing.join(' and ')}` }
    isProven = true
    return { t: 'proven', netns }
  } catch (error) {
    return { t: 'refused', because: `the namespace at ${path} cannot be looked at (${describeError(error)})` }
  } finally {
    if (!isProven) netns.close()
  }
}

async function missingAddresses(netns: Netns, ips: readonly string[], waitMs: number): Promise<string[]> {
  const deadline = performance.now() + waitMs
  for (;;) {
    const there = new Set(await netns.allAddresses())
    const missing = ips.filter((ip) => !there.has(ip))
    if (missing.length === 0 || performance.now() >= deadline) return missing
    await sleep(lookEveryMs)
  }
}
