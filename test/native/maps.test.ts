// Maps through the addon: typed views, sums over CPUs, batches, and every wrong argument an error instead of a crash.
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MeshError } from '../../src/core/errors.ts'
import { u32Codec } from '../../src/kernel/bpf-map.ts'
import { reason } from '../../src/kernel/generated/layout.ts'
import type { FlowKey } from '../../src/kernel/generated/layout.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { FencePrograms } from './fence-programs.ts'

let fence: FencePrograms

beforeAll(() => {
  fence = new FencePrograms()
})
afterAll(() => fence[Symbol.dispose]())

const address = (last: number): Uint8Array => Uint8Array.from({ length: 16 }, (_, i) => (i === 15 ? last : i))
const flowKey = (n: number): FlowKey => ({ source: address(1), destination: address(2), sourcePort: n >> 8, destinationPort: n & 0xff })

describe('typed access', () => {
  test('what is set is read back, once by take', () => {
    const { handoffs } = fence.maps
    const key = { netnsCookie: 7n, port: 50_000, family: 4, protocol: 6, dnsSlot: 0 }
    expect(handoffs.get(key)).toBeUndefined()
    handoffs.set(key, { address: address(9), port: 8080 })
    const found = handoffs.get(key)
    expect(found?.port).toBe(8080)
    expect(Buffer.compare(found?.address ?? new Uint8Array(), address(9))).toBe(0)
    expect(handoffs.take(key)?.port).toBe(8080)
    expect(handoffs.take(key)).toBeUndefined()
    expect(handoffs.get(key)).toBeUndefined()
  })

  test('delete says whether there was one', () => {
    const { probePorts } = fence.maps
    const key = { netnsCookie: 7n, port: 80 }
    probePorts.set(key, 1)
    expect(probePorts.delete(key)).toBe(true)
    expect(probePorts.delete(key)).toBe(false)
  })

  test('a counter is the sum over all CPUs', () => {
    const before = fence.maps.counters.get(reason.noSocket) ?? 0n
    for (let i = 0; i < 5; i++) fence.refuse(80)
    expect(fence.maps.counters.get(reason.noSocket)).toBe(before + 5n)
    const raw = native().mapLookup(fence.maps.counters.fd, u32Codec.write(reason.noSocket))
    expect(raw?.length).toBeGreaterThan(0)
    expect((raw?.length ?? 1) % 8).toBe(0)
  })

  test('more entries than one batch holds are all written and all read', () => {
    const count = 5000
    const wanted = Array.from({ length: count }, (_, n) => n)
    fence.maps.flows.setAll(wanted.map((n) => [flowKey(n), { kind: n }]))
    const kinds = fence.maps.flows.entries().map(([key, { kind }]) => {
      expect(key.sourcePort * 256 + key.destinationPort).toBe(kind)
      return kind
    })
    expect(kinds.sort((a, b) => a - b)).toEqual(wanted)
    for (const n of wanted) expect(fence.maps.flows.delete(flowKey(n))).toBe(true)
    expect(fence.maps.flows.entries()).toEqual([])
  })

  test('an array and a per-CPU array list every index, an empty batch does nothing', () => {
    expect(fence.maps.meta.entries()).toHaveLength(1)
    expect(fence.maps.counters.keys()).toEqual(Array.from({ length: native().mapInfo(fence.maps.counters.fd).maxEntries }, (_, i) => i))
    fence.maps.flows.setAll([])
  })

  test('info says what the C source says', () => {
    expect(native().mapInfo(fence.maps.flows.fd)).toMatchObject({ type: 9, keySize: 36, valueSize: 4, maxEntries: 65_536, name: 'flows' })
  })

  test('a full hash refuses with the errno, and keeps what it has', () => {
    const { nodes } = fence.maps
    for (let i = 0n; i < 16n; i++) nodes.set(i, { cgroupId: i })
    expect(() => nodes.set(99n, { cgroupId: 0n })).toThrow(expect.objectContaining({ code: 'SYSCALL_FAILED', detail: expect.objectContaining({ errno: 'E2BIG' }) }))
    expect(nodes.keys()).toHaveLength(16)
    for (let i = 0n; i < 16n; i++) nodes.delete(i)
  })
})

/** The failure's code, or its class where it is no MeshError. */
function failure(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    if (error instanceof MeshError) return error.code
    return error instanceof TypeError ? 'TypeError' : `unexpected ${String(error)}`
  }
  return 'none'
}

describe('wrong arguments', () => {
  test.each([0, 1, 35, 37, 4096])('a key of %d bytes instead of 36', (size) => {
    const { fd } = fence.maps.flows
    const key = new Uint8Array(size)
    expect(failure(() => native().mapLookup(fd, key))).toBe('SYSCALL_FAILED')
    expect(failure(() => native().mapUpdate(fd, key, new Uint8Array(4)))).toBe('SYSCALL_FAILED')
    expect(failure(() => native().mapDelete(fd, key))).toBe('SYSCALL_FAILED')
    expect(failure(() => native().mapTake(fd, key))).toBe('SYSCALL_FAILED')
  })

  test.each([0, 3, 5])('a value of %d bytes instead of 4', (size) => {
    expect(failure(() => native().mapUpdate(fence.maps.flows.fd, new Uint8Array(36), new Uint8Array(size)))).toBe('SYSCALL_FAILED')
  })

  test('batches whose halves do not fit', () => {
    const { fd } = fence.maps.flows
    expect(failure(() => native().mapUpdateBatch(fd, new Uint8Array(36), new Uint8Array(8)))).toBe('SYSCALL_FAILED')
    expect(failure(() => native().mapUpdateBatch(fd, new Uint8Array(35), new Uint8Array(4)))).toBe('SYSCALL_FAILED')
  })

  test('what a kind of map cannot do', () => {
    expect(failure(() => native().mapDelete(fence.maps.meta.fd, new Uint8Array(4)))).toBe('SYSCALL_FAILED') // arrays have no deletion
    for (const keyless of [fence.maps.events]) {
      expect(failure(() => native().mapEntries(keyless))).toBe('SYSCALL_FAILED')
      expect(failure(() => native().mapUpdateBatch(keyless, new Uint8Array(4), new Uint8Array(4)))).toBe('SYSCALL_FAILED')
      expect(failure(() => native().mapLookup(keyless, new Uint8Array(0)))).toBe('SYSCALL_FAILED')
    }
  })

  test('a program, a namespace and a closed descriptor are no maps', () => {
    const closed = native().openPath('/proc/self/ns/net')
    closed.close()
    const netns = native().openPath('/proc/self/ns/net')
    for (const fd of [fence.program, netns, closed]) {
      expect(failure(() => native().mapInfo(fd))).toBe('SYSCALL_FAILED')
      expect(failure(() => native().mapEntries(fd))).toBe('SYSCALL_FAILED')
      expect(failure(() => native().mapUpdateBatch(fd, new Uint8Array(8), new Uint8Array(8)))).toBe('SYSCALL_FAILED')
    }
    netns.close()
  })

  test('any bytes and any descriptor: only MeshError or TypeError escape', () => {
    const other = native().openPath('/proc/self/ns/net')
    const impostor: unknown = Object.create(Object.getPrototypeOf(other))
    const fds: unknown[] = [...Object.values(fence.maps.fds), fence.program, other, impostor, 3, -1, undefined, null, {}, 'fd', other.fd]
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.constantFrom<unknown>(undefined, null, 0, 'bytes', [], {}, new Uint16Array(4), new DataView(new ArrayBuffer(4)), new ArrayBuffer(36)),
    )
    const addon = native() as unknown as Record<string, (...args: unknown[]) => unknown>
    const calls = ['mapInfo', 'mapLookup', 'mapUpdate', 'mapDelete', 'mapTake', 'mapEntries', 'mapUpdateBatch', 'linkInfo', 'linkUpdate', 'linkDetach'] as const
    fc.assert(
      fc.property(fc.constantFrom(...calls), fc.constantFrom(...fds), bytes, bytes, fc.constantFrom<unknown>(undefined, 0, 1, 2, 4, 2 ** 32, -1, Number.NaN, {}), (call, fd, key, value, flags) => {
        expect(['none', 'SYSCALL_FAILED', 'TypeError']).toContain(failure(() => addon[call]?.(fd, key, value, flags)))
      }),
      { numRuns: 3000 },
    )
    other.close()
  })

  test('keys and values of the right size, whatever is in them', () => {
    const map: OwnedFd = fence.maps.flows.fd
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 36, maxLength: 36 }), fc.uint8Array({ minLength: 4, maxLength: 4 }), (key, value) => {
        native().mapUpdate(map, key, value)
        expect(Buffer.compare(native().mapLookup(map, key) ?? Buffer.alloc(0), value)).toBe(0)
        expect(Buffer.compare(native().mapTake(map, key) ?? Buffer.alloc(0), value)).toBe(0)
        expect(native().mapDelete(map, key)).toBe(false)
      }),
    )
  })
})
