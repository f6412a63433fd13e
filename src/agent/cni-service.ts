// All of the CNI plugin's side of the agent: its socket, what it goes by without an agent, and its place in the node's chain, begun
// in the order in which no pod slips through: what the plugin reads is there, and who answers it, before any runtime calls it.
import type { Logger } from '../core/log.ts'
import { describeError } from '../core/errors.ts'
import type { FailureMode } from '../model/enrolment.ts'
import { CniInstaller, type CniState } from './cni-install.ts'
import { readNamespaces, writeNamespaces } from './cni-namespaces.ts'
import { CniServer, type CniHandler } from './cni-server.ts'

export interface CniServiceOptions {
  readonly socket: string
  readonly namespacesFile: string
  /** The plugin in our image. */
  readonly executable: string
  readonly binDirectory: string
  readonly confDirectory: string
  /** How long the plugin waits for an answer; the agent should have decided before. */
  readonly timeoutMs: number
  /** Namespaces that never wait: the one in which the agent itself starts. */
  readonly exempt: readonly string[]
  readonly handle: CniHandler
  readonly logger: Logger
  readonly onState?: (state: CniState) => void
}

const retryMs = 1000

export class CniService {
  readonly #options: CniServiceOptions
  readonly #server: CniServer
  readonly #installer: CniInstaller
  #namespaces: ReadonlyMap<string, FailureMode> | undefined
  #writing: Promise<void> | undefined
  #retry: NodeJS.Timeout | undefined
  #isClosed = false

  constructor(options: CniServiceOptions) {
    const { socket, namespacesFile, executable, binDirectory, confDirectory, timeoutMs, exempt, handle, logger, onState } = options
    this.#options = options
    this.#server = new CniServer({ path: socket, handle, logger })
    this.#installer = new CniInstaller({
      executable, binDirectory, confDirectory, logger,
      entry: { socket, namespaces: namespacesFile, timeoutMs, exempt },
      mayWrite: () => this.#server.isOwner(),
      ...(onState === undefined ? {} : { onState }),
    })
  }

  /** Whether the plugin asks this agent, and not a newer one. */
  isOwner(): Promise<boolean> {
    return this.#server.isOwner()
  }

  get state(): CniState {
    return this.#installer.state
  }

  /** Which namespaces have pods of the mesh, from now on. May be called as often as one likes; a failure is told and tried again. */
  setNamespaces(namespaces: ReadonlyMap<string, FailureMode>): void {
    this.#namespaces = namespaces
    this.#writing ??= this.#write()
  }

  /**
   * Resolves when the plugin is in the chain, or it is known why not yet. Where no namespaces were said before, those that an
   * earlier agent wrote down stay in force until they are.
   */
  async start(): Promise<void> {
    if (this.#namespaces === undefined && !await this.#isWritten()) this.setNamespaces(new Map())
    await this.#writing
    await this.#server.listen()
    await this.#installer.start()
  }

  /** Ends, and leaves everything on the node as it is: a newer agent may be there already, or come. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#retry)
    await this.#installer.close()
    await this.#server.close()
    await this.#writing
  }

  async #isWritten(): Promise<boolean> {
    try {
      return await readNamespaces(this.#options.namespacesFile) !== undefined
    } catch {
      // It is broken, and holds everybody until somebody knows better.
      return true
    }
  }

  async #write(): Promise<void> {
    const { namespacesFile, logger } = this.#options
    let written: ReadonlyMap<string, FailureMode> | undefined
    try {
      while (this.#namespaces !== undefined && this.#namespaces !== written) {
        const next = this.#namespaces
        await writeNamespaces(namespacesFile, next)
        written = next
      }
    } catch (error) {
      logger.warn({ path: namespacesFile, because: describeError(error) }, 'cannot write down which namespaces are in the mesh')
      if (!this.#isClosed) this.#retry = setTimeout(() => (this.#writing ??= this.#write()), retryMs).unref()
    } finally {
      this.#writing = undefined
    }
  }
}
