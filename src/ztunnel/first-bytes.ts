// When the first bytes came from each side of a connection: for a histogram, without a question at each read. Forgets itself
// after the first.

/** The first call counts: bytes that Node had read before may bring a second. */
export interface FirstBytes {
  readonly fromFirst?: (() => void) | undefined
  readonly fromSecond?: (() => void) | undefined
}

/** `use`, with `told` called before it the first time. */
export function tellingFirst<T, R>(told: (() => void) | undefined, use: (value: T) => R): (value: T) => R {
  if (!told) return use
  let next = (value: T): R => {
    next = use
    told()
    return use(value)
  }
  return (value) => next(value)
}
