// A level for each component of the log, changed while it runs. Stands between the rooms and the logger that writes, which
// must let everything pass. What is below its component's level costs one comparison.
import type { LogLevel } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'

const ranks: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 }
/** The name for everything that is no component. */
export const defaultComponent = 'default'

interface Threshold {
  level: LogLevel
}

export class LogLevels {
  /** Give this one to the rooms; its children with a `component` have a level of their own. */
  readonly logger: Logger
  readonly #initial: LogLevel
  readonly #thresholds = new Map<string, Threshold>()

  /** `sink` writes everything that it is given. */
  constructor(sink: Logger, level: LogLevel) {
    this.#initial = level
    this.logger = this.#filtered(sink, this.#threshold(defaultComponent))
  }

  /** Component to level. A component exists once somebody has made a logger for it. */
  levels(): Readonly<Record<string, LogLevel>> {
    return Object.fromEntries([...this.#thresholds].map(([component, { level }]) => [component, level]))
  }

  /** All of them where none is named; false if there is no such component. */
  set(component: string | undefined, level: LogLevel): boolean {
    if (component === undefined) {
      for (const threshold of this.#thresholds.values()) threshold.level = level
      return true
    }
    const threshold = this.#thresholds.get(component)
    if (threshold) threshold.level = level
    return threshold !== undefined
  }

  #threshold(component: string): Threshold {
    let found = this.#thresholds.get(component)
    if (!found) this.#thresholds.set(component, (found = { level: this.#thresholds.get(defaultComponent)?.level ?? this.#initial }))
    return found
  }

  #filtered(sink: Logger, threshold: Threshold): Logger {
    const at = (level: LogLevel): Logger['info'] => (first: object | string, second?: string): void => {
      if (ranks[level] < ranks[threshold.level]) return
      if (typeof first === 'string') sink[level](first)
      else sink[level](first, second ?? '')
    }
    return {
      debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'),
      child: (bindings) => {
        const { component } = bindings
        return this.#filtered(sink.child(bindings), typeof component === 'string' ? this.#threshold(component) : threshold)
      },
    }
  }
}
