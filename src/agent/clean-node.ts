// Leaves nothing of the mesh in the namespaces of pods that were captured, when it leaves the node for good. Ztunnels and agents must
// have ended before; what they pinned is still there and says which pods they had.
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { CaptureView } from '../kernel/capture-view.ts'
import { Netns } from '../kernel/netns.ts'
import { removeReturnPath } from '../kernel/redirection.ts'
import { everyNetns } from './process-scan.ts'

/** How many namespaces were put back as they were. Never rejects for one of them: it may be going just now. */
export async function cleanNamespaces(instance: string, logger: Logger): Promise<number> {
  using view = CaptureView.open(instance)
  const cookies = new Set(view?.cookies())
  let cleaned = 0
  if (cookies.size === 0) return cleaned
  for (const path of await everyNetns()) {
    try {
      const netns = await Netns.open(path)
      try {
        if (!cookies.has(netns.cookie)) continue
        await removeReturnPath(netns)
        cleaned++
      } finally {
        netns.close()
      }
    } catch (error) {
      logger.warn({ path, because: describeError(error) }, 'a namespace was not cleaned')
    }
  }
  return cleaned
}
