// Takes the CNI plugin off the node, for good: at an uninstall, never when an agent ends. The entry leaves the chain first, so
// that no new pod calls the plugin; then what it would go by, so that whoever is calling it passes; and the executable last.
import { readdir, readFile, rm, rmdir, stat } from 'node:fs/promises'
import { setTimeout as wait } from 'node:timers/promises'
import { dirname, join } from 'node:path'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { pluginType } from './cni-config-text.ts'
import { tidy, unchain } from './cni-files.ts'

export interface RemoveOptions {
  readonly confDirectory: string
  readonly binDirectory: string
  readonly socket: string
  readonly namespaces: string
  readonly logger: Logger
  /** Between the chain without the plugin and the node without it: runtimes read their configuration anew within. */
  readonly graceMs?: number
  /** Of CRI-O, which takes pods off the network by the chain that they were put on it with. */
  readonly crioSocket?: string
  /** Where libcni keeps those chains. */
  readonly cacheDirectory?: string
}

/** What is still there, and why. Empty: nothing is left of the plugin. */
export type Left = readonly { readonly path: string; readonly because: string }[]

/** Never rejects: each step is tried, and what it could not do is told. May be called again. The agent must have ended before. */
export async function removeFromNode(options: RemoveOptions): Promise<Left> {
  const { confDirectory, binDirectory, socket, namespaces, logger, graceMs = 3000 } = options
  const left: { path: string; because: string }[] = []
  const attempt = async (path: string, step: () => Promise<unknown>): Promise<void> => {
    try {
      await step()
    } catch (error) {
      left.push({ path, because: describeError(error) })
      logger.warn({ path, because: describeError(error) }, 'could not be removed from this node')
    }
  }
  let wasChained = false
  await attempt(confDirectory, async () => {
    wasChained = await unchain(confDirectory)
    await tidy(confDirectory, true)
  })
  // A chain that still names the executable needs it more than the node needs to be clean.
  if (left.length > 0) return left
  for (const path of [namespaces, socket]) {
    await attempt(path, () => rm(path, { force: true }))
    await rmdir(dirname(path)).catch(() => {
      // Others have files there, or it is gone.
    })
  }
  const executable = join(binDirectory, pluginType)
  if (!await exists(executable)) return left
  if (wasChained) await wait(graceMs)
  const pods = await podsThatNeedIt(options)
  if (pods > 0) {
    const because = `CRI-O ends the network of ${pods} pods by the chain that they were started with, which names it; `
      + 'call this again when they are gone, or remove it by hand'
    left.push({ path: executable, because })
    logger.warn({ path: executable, because }, 'could not be removed from this node')
    return left
  }
  await attempt(executable, async () => {
    await rm(executable, { force: true })
    await tidy(binDirectory, true)
  })
  return left
}

/** Without the executable, DEL of such a pod fails and the pod never ends. containerd goes by the chain of the day. */
async function podsThatNeedIt({ crioSocket = '/run/crio/crio.sock', cacheDirectory = '/var/lib/cni/results' }: RemoveOptions): Promise<number> {
  if (!await exists(crioSocket)) return 0
  let count = 0
  for (const name of await readdir(cacheDirectory).catch(() => [])) {
    try {
      const { config } = JSON.parse(await readFile(join(cacheDirectory, name), 'utf8'))
      if (typeof config === 'string' && Buffer.from(config, 'base64').includes(`"${pluginType}"`)) count += 1
    } catch {
      // Not a cached result.
    }
  }
  return count
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(() => true, () => false)
}
