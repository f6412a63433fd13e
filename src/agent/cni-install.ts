// Keeps the CNI plugin on the node: its executable where the runtime looks for plugins, and its entry last in the chain of the
// node's network, for as long as the agent that was started last runs. It puts back what others take away. It must never leave a
// chain that names a missing executable, and never take anything away by itself: an agent that ends may be about to be replaced
// (cni-remove.ts is for the end).
import { watch, type FSWatcher } from 'node:fs'
import { chmod, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { writeAtomically } from './atomic-file.ts'
import { pluginType, type PluginEntry } from './cni-config-text.ts'
import { chain, tidy } from './cni-files.ts'

/** `waiting`: pods can start without having waited for their capture, and why. `succeeded`: a newer agent looks after it. */
export type CniState =
  | { readonly t: 'chained'; readonly file: string }
  | { readonly t: 'waiting'; readonly because: string }
  | { readonly t: 'succeeded' }

export interface CniInstallOptions {
  /** The executable in our image. */
  readonly executable: string
  /** Where the runtime has its plugins, and its configurations. */
  readonly binDirectory: string
  readonly confDirectory: string
  readonly entry: PluginEntry
  /** False where a newer agent is there: then nothing is touched, or the two would undo each other's work. */
  readonly mayWrite: () => Promise<boolean>
  readonly logger: Logger
  readonly onState?: (state: CniState) => void
  /** How often it looks even where nothing seems to have changed. */
  readonly pollMs?: number
  /** After so many repairs within a minute it takes its time. */
  readonly patience?: number
}

const quietMs = 50
const minuteMs = 60_000

export class CniInstaller {
  readonly #options: CniInstallOptions
  #state: CniState = { t: 'waiting', because: 'not tried yet' }
  #watchers: FSWatcher[] = []
  #timer: NodeJS.Timeout | undefined
  #working: Promise<void> | undefined
  #dueMs = 0
  #isStale = false
  #isClosed = false
  #repairs: number[] = []
  #wroteOnce = false

  constructor(options: CniInstallOptions) {
    this.#options = options
  }

  get state(): CniState {
    return this.#state
  }

  /** Installs, and keeps it so until `close`. Resolves after the first try, whatever came of it. */
  async start(): Promise<void> {
    await this.#look()
  }

  /** Ends the watch. The plugin stays. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    for (const watcher of this.#watchers) watcher.close()
    await this.#working
  }

  #watch(): void {
    const { confDirectory, binDirectory } = this.#options
    for (const watcher of this.#watchers) watcher.close()
    this.#watchers = [confDirectory, binDirectory].flatMap((directory) => {
      try {
        const watcher = watch(directory, () => this.#soon(quietMs))
        watcher.on('error', () => watcher.close())
        return [watcher]
      } catch {
        // Not there yet, or no inotify instance left: the poll finds it.
        return []
      }
    })
  }

  #soon(ms: number): void {
    if (this.#isClosed) return
    const since = Date.now() - minuteMs
    this.#repairs = this.#repairs.filter((at) => at > since)
    const isPatient = this.#repairs.length >= (this.#options.patience ?? 10)
    const dueMs = performance.now() + (isPatient ? Math.max(ms, 100 * quietMs) : ms)
    if (this.#timer !== undefined && this.#dueMs <= dueMs) return
    clearTimeout(this.#timer)
    this.#dueMs = dueMs
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      void this.#look()
    }, dueMs - performance.now()).unref()
  }

  #look(): Promise<void> {
    // What changed while it reads, it may have missed.
    this.#isStale = this.#working !== undefined
    this.#working ??= this.#repair().finally(() => {
      this.#working = undefined
      this.#soon(this.#isStale ? quietMs : this.#options.pollMs ?? 5000)
    })
    return this.#working
  }

  async #repair(): Promise<void> {
    const { executable, binDirectory, confDirectory, entry, logger, mayWrite } = this.#options
    // Before it reads, so that nothing is missed; and anew, because the directories may have been replaced.
    this.#watch()
    try {
      if (!(await mayWrite())) return this.#become({ t: 'succeeded' })
      if (!this.#wroteOnce) await Promise.all([tidy(confDirectory, false), tidy(binDirectory, false)])
      const path = join(binDirectory, pluginType)
      if (await install(executable, path)) logger.info({ path }, 'installed the CNI plugin')
      const { file, isChanged } = await chain(confDirectory, entry)
      if (isChanged) {
        this.#repairs.push(Date.now())
        const fields = { file, repairs: this.#repairs.length }
        if (this.#repairs.length === (this.#options.patience ?? 10)) {
          logger.warn(fields, 'somebody takes the CNI plugin out of its chain again and again; with Cilium, set cni.exclusive=false')
        } else if (this.#wroteOnce) logger.warn(fields, 'put the CNI plugin back into its chain')
        else logger.info(fields, 'chained the CNI plugin')
      }
      this.#wroteOnce = true
      this.#become({ t: 'chained', file })
    } catch (error) {
      this.#become({ t: 'waiting', because: describeError(error) })
    }
  }

  #become(state: CniState): void {
    const isNews = JSON.stringify(state) !== JSON.stringify(this.#state)
    this.#state = state
    if (!isNews) return
    if (state.t === 'waiting') this.#options.logger.warn({ because: state.because }, 'the CNI plugin is not in the chain')
    this.#options.onState?.(state)
  }
}

/** Puts the executable there, at one stroke, where it is not there yet or another. Whether it had to. */
export async function install(executable: string, path: string): Promise<boolean> {
  const wanted = await readFile(executable)
  try {
    const { size, mode } = await stat(path)
    if (size === wanted.length && (await readFile(path)).equals(wanted)) {
      if ((mode & 0o777) !== 0o755) await chmod(path, 0o755)
      return false
    }
  } catch {
    // Not there, or not to be read: it is written anew.
  }
  await writeAtomically(path, wanted, { mode: 0o755 })
  return true
}
