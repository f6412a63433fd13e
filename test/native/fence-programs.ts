// The fence program and its maps, loaded for one test: attached to nothing, pinned nowhere, known to nobody. Running it
// on a frame counts and reports one refusal, so that a test makes events at will.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ipToBytes } from '../../src/core/address.ts'
import { Maps, mapNames } from '../../src/kernel/maps.ts'
import type { MapName } from '../../src/kernel/maps.ts'
import { buildDirectory, native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { tcpFrame } from '../bpf/packets.ts'

export const objectPath = (name: string): string => join(buildDirectory, `bpf/${name}.bpf.o`)

/** The cookie that the events of `refuse` carry. */
export const testCookie = 4242n

export interface Loaded extends Disposable {
  readonly maps: Maps
  readonly program: OwnedFd
}

/** Loads one object with maps of its own, or those of another load. */
export function loadProgram(object: string, program: string, shared: Readonly<Partial<Record<MapName, OwnedFd>>> = {}): Loaded {
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-load-'))
  try {
    const loaded = native().loadObject(objectPath(object), { ...shared }, join(directory, 'verifier.log'))
    const fds = Object.fromEntries(mapNames.map((name) => [name, loaded.maps[name]])) as Record<MapName, OwnedFd>
    const maps = new Maps(fds)
    const fd = loaded.programs[program]
    for (const [name, other] of Object.entries(loaded.programs)) if (name !== program) other.close()
    for (const [name, other] of Object.entries(loaded.maps)) if (!(name in fds)) other.close()
    if (!fd) throw new TypeError(`${object} has no program ${program}`)
    return {
      maps,
      program: fd,
      [Symbol.dispose](): void {
        fd.close()
        maps.close()
      },
    }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

export class FencePrograms implements Disposable {
  readonly #loaded: Loaded

  constructor() {
    this.#loaded = loadProgram('fence', 'fence_pod')
    this.maps.pods.set(testCookie, { ip4: ipToBytes('10.1.2.3') ?? new Uint8Array(16), ip6: new Uint8Array(16), flags: 0 })
    this.maps.fences.set(1, testCookie) // a test run's packet arrives on lo
  }

  get maps(): Maps {
    return this.#loaded.maps
  }

  get program(): OwnedFd {
    return this.#loaded.program
  }

  /** One refused packet to that port: one more in the counter `noSocket`, and one event unless the ring is full. */
  refuse(port: number): void {
    native().programTestRun(this.program, tcpFrame({ source: '10.1.2.3', destination: '10.9.9.9', destinationPort: port }))
  }

  [Symbol.dispose](): void {
    this.#loaded[Symbol.dispose]()
  }
}
