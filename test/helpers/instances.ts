// Unique names for what a test pins or makes, so that parallel runs do not meet.
import { Redirection } from '../../src/kernel/redirection.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { silentLogger } from '../../src/core/log.ts'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

let count = 0

/** A DNS label that no other test has. */
export function uniqueName(prefix = 't'): string {
  return `${prefix}${process.pid}-${++count}`
}

/** Loads the programs under a name of their own, for tests of the programs themselves. `remove` undoes it. */
export async function loadedPrograms(instance = uniqueName('bpf')): Promise<{ redirection: Redirection; instance: string; remove: () => void }> {
  const nodeNetns = await Netns.open('/proc/self/ns/net')
  const redirection = Redirection.open({ instance, nodeNetns, verifierLog: join(tmpdir(), `${instance}-verifier.log`), logger: silentLogger })
  const remove = (): void => {
    redirection.close()
    nodeNetns.close()
    Redirection.remove(instance)
  }
  return { redirection, instance, remove }
}
