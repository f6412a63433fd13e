// The logger that rooms are handed. Messages are fixed lower-case text, facts are dotted fields. pino fulfils it; the
// composition roots in src/bin make it, so no room decides where logs go.

type LogMethod = {
  (fields: object, message: string): void
  (message: string): void
}

export interface Logger {
  readonly debug: LogMethod
  readonly info: LogMethod
  readonly warn: LogMethod
  readonly error: LogMethod
  child(bindings: Record<string, unknown>): Logger
}

const nothing = (): void => {}

/** For tests and for library use where nobody listens. */
export const silentLogger: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silentLogger }
