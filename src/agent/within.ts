// Waiting that ends: with a promise, after a time, or when it is called off, whichever is first.

/** Undefined waits for the time alone. Never rejects. */
export function within(promise: Promise<unknown> | undefined, ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  const called = Promise.withResolvers<void>()
  const timer = setTimeout(() => called.resolve(), ms)
  const onAbort = (): void => called.resolve()
  signal.addEventListener('abort', onAbort, { once: true })
  return Promise.race([called.promise, ...(promise ? [promise.then(() => {}, () => {})] : [])]).finally(() => {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
  })
}
