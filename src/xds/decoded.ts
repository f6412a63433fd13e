// What came off the wire, or why it is refused. Decoders of this room never throw: they return one of these.
import { MeshError } from '../core/errors.ts'

export type Decoded<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly because: string }

/** For use inside a decoder only: `decoding` turns it into a failure. */
export function refuse(because: string): never {
  throw new MeshError('BAD_MESSAGE', because, { source: 'upstream' })
}

/** Runs a decoder; whatever it throws becomes the reason. */
export function decoding<T>(decode: () => T): Decoded<T> {
  try {
    return { ok: true, value: decode() }
  } catch (error) {
    return { ok: false, because: error instanceof Error ? error.message : String(error) }
  }
}
