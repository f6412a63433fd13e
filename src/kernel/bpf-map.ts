// Typed views of pinned maps: the codecs come from the generated layout, so a map cannot be read with another map's shape.
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'

export interface Codec<T> {
  readonly write: (value: T) => Uint8Array
  readonly read: (bytes: Uint8Array) => T
}

export class BpfMap<K, V> {
  readonly fd: OwnedFd
  readonly #key: Codec<K>
  readonly #value: Codec<V>

  constructor(fd: OwnedFd, key: Codec<K>, value: Codec<V>) {
    this.fd = fd
    this.#key = key
    this.#value = value
  }

  get(key: K): V | undefined {
    const bytes = native().mapLookup(this.fd, this.#key.write(key))
    return bytes && this.#value.read(bytes)
  }

  set(key: K, value: V): void {
    native().mapUpdate(this.fd, this.#key.write(key), this.#value.write(value))
  }

  /** Whether it was there. */
  delete(key: K): boolean {
    return native().mapDelete(this.fd, this.#key.write(key))
  }

  /** Reads and deletes in one step. */
  take(key: K): V | undefined {
    const bytes = native().mapTake(this.fd, this.#key.write(key))
    return bytes && this.#value.read(bytes)
  }

  entries(): [K, V][] {
    return native().mapEntries(this.fd).map(([key, value]) => [this.#key.read(key), this.#value.read(value)])
  }

  keys(): K[] {
    return this.entries().map(([key]) => key)
  }

  /** Many at once, in one system call. */
  setAll(entries: readonly (readonly [K, V])[]): void {
    const keys = Buffer.concat(entries.map(([key]) => this.#key.write(key)))
    const values = Buffer.concat(entries.map(([, value]) => this.#value.write(value)))
    native().mapUpdateBatch(this.fd, keys, values)
  }
}

const scalar = <T>(size: number, set: (view: DataView, value: T) => void, get: (view: DataView) => T): Codec<T> => ({
  write: (value) => {
    const bytes = new Uint8Array(size)
    set(new DataView(bytes.buffer), value)
    return bytes
  },
  read: (bytes) => get(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)),
})

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

export const u8Codec: Codec<number> = scalar(1, (view, value) => view.setUint8(0, value), (view) => view.getUint8(0))
export const u32Codec: Codec<number> = scalar(4, (view, value) => view.setUint32(0, value, littleEndian), (view) => view.getUint32(0, littleEndian))
export const u64Codec: Codec<bigint> = scalar(8, (view, value) => view.setBigUint64(0, value, littleEndian), (view) => view.getBigUint64(0, littleEndian))
/** A per-CPU u64, read as the sum over all CPUs. */
export const perCpuSumCodec: Codec<bigint> = {
  write: () => {
    throw new TypeError('per-CPU counters are written by the programs only')
  },
  read: (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    let sum = 0n
    for (let offset = 0; offset + 8 <= bytes.byteLength; offset += 8) sum += view.getBigUint64(offset, littleEndian)
    return sum
  },
}
/** Bytes as they are, for addresses. */
export const bytesCodec: Codec<Uint8Array> = { write: (value) => value, read: (bytes) => bytes }
