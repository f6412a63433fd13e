// Keeps a token file for each pod of a gateway, DIRECTORY/NAMESPACE/NAME/token, for as long as the pod runs: the pod gets its own
// directory, and so its own token, and calls for itself. Names come from what strangers wrote, so only Kubernetes names ever
// become paths. Files are changed one after the other; what is there of a pod that is gone is removed, also by a later run.
import { readdir, rm, rmdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { isErrno, makePrivateDirectory } from '../pki/files.ts'
import { keepTokenFile, type Token, type TokenFile, type TokenHolder } from '../pki/tokens.ts'
import { isKubernetesName, type GatewayPod, type GatewayPodListener } from './gateway-pods.ts'

export interface PodTokensOptions {
  readonly directory: string
  readonly issue: (holder: TokenHolder) => Promise<Token>
  readonly logger: Logger
  readonly clock?: Clock
}

interface Kept {
  readonly path: string
  file: TokenFile | undefined
  isGone: boolean
  cancelRetry: () => void
}

const retryMs = 5_000
const fileName = 'token'

export class PodTokens implements GatewayPodListener {
  readonly #options: PodTokensOptions
  readonly #clock: Clock
  readonly #kept = new Map<string, Kept>()
  /** Directories that we made. One that somebody else made is there to be shown to pods, perhaps to the next of that name. */
  readonly #made = new Set<string>()
  #work: Promise<void> = Promise.resolve()

  constructor(options: PodTokensOptions) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  appeared(pod: GatewayPod): void {
    const { namespace, name } = pod.pod
    if (!isKubernetesName(namespace) || !isKubernetesName(name)) {
      this.#options.logger.warn({ pod: JSON.stringify(`${namespace}/${name}`) }, 'no token for a pod of such a name')
      return
    }
    const kept: Kept = { path: join(this.#options.directory, namespace, name, fileName), file: undefined, isGone: false, cancelRetry: () => undefined }
    this.#kept.set(`${namespace}/${name}`, kept)
    this.#then(() => this.#write(kept, pod))
  }

  gone({ pod: { namespace, name } }: GatewayPod): void {
    const id = `${namespace}/${name}`
    const kept = this.#kept.get(id)
    if (!kept) return
    this.#kept.delete(id)
    kept.isGone = true
    kept.cancelRetry()
    this.#then(async () => {
      await kept.file?.stop()
      // Here again by now: what comes next in line writes over it, in the directory that the pod may be shown already.
      if (this.#kept.has(id)) return
      await rm(kept.path, { force: true })
      if (!this.#made.delete(dirname(kept.path))) return
      await removeIfEmpty(dirname(kept.path))
      await removeIfEmpty(join(this.#options.directory, namespace))
    })
  }

  synced(): void {
    this.#then(() => this.#sweep())
  }

  /** Files stay, for who starts again soon. Resolves when nothing is written any more. */
  async stop(): Promise<void> {
    await this.#work
    for (const kept of this.#kept.values()) {
      kept.isGone = true
      kept.cancelRetry()
    }
    await Promise.all([...this.#kept.values()].map(({ file }) => file?.stop()))
  }

  async #write(kept: Kept, { node, gateway, pod }: GatewayPod): Promise<void> {
    if (kept.isGone) return
    const { logger, directory, issue } = this.#options
    try {
      await makePrivateDirectory(join(directory, pod.namespace))
      if (await makePrivateDirectory(dirname(kept.path))) this.#made.add(dirname(kept.path))
      const holder = { node, pod, subject: `gateway ${gateway.namespace}/${gateway.name}` }
      kept.file = await keepTokenFile({ path: kept.path, issue: () => issue(holder), logger, clock: this.#clock })
    } catch (error) {
      logger.error({ path: kept.path, because: describeError(error) }, 'token file not written')
      if (!kept.isGone) kept.cancelRetry = this.#clock.after(retryMs, () => this.#then(() => this.#write(kept, { node, gateway, pod })))
    }
  }

  async #sweep(): Promise<void> {
    const { directory } = this.#options
    const wanted = new Set([...this.#kept.values()].map(({ path }) => path))
    for (const namespace of await entriesOf(directory)) {
      // A link that somebody put there leads elsewhere.
      if (!namespace.isDirectory()) continue
      const folder = join(directory, namespace.name)
      for (const entry of await entriesOf(folder)) {
        const own = join(folder, entry.name)
        if (!entry.isDirectory() || wanted.has(join(own, fileName))) continue
        // The directory may be for a pod that is just being made, and shown to it already.
        for (const file of await entriesOf(own)) if (file.isFile()) await rm(join(own, file.name), { force: true })
      }
    }
  }

  #then(work: () => Promise<void>): void {
    this.#work = this.#work.then(work).catch((error: unknown) => {
      this.#options.logger.error({ because: describeError(error) }, 'token files of pods are not as they should be')
    })
  }
}

async function entriesOf(folder: string): Promise<{ readonly name: string; isFile(): boolean; isDirectory(): boolean }[]> {
  try {
    return await readdir(folder, { withFileTypes: true })
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return []
    throw error
  }
}

async function removeIfEmpty(folder: string): Promise<void> {
  try {
    await rmdir(folder)
  } catch (error) {
    // Other pods of the namespace have theirs there, or nothing ever was.
    if (!isErrno(error, 'ENOTEMPTY') && !isErrno(error, 'ENOENT')) throw error
  }
}
