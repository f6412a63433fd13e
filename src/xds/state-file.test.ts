import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import type { XdsSnapshot } from './client.ts'
import { encodeWorkload } from './encode.ts'
import { StateKeeper, loadState, parseState, saveState } from './state-file.ts'
import { aWorkload } from './testing.ts'

const folder = mkdtempSync(join(tmpdir(), 'sidestep-state-'))
afterAll(() => rmSync(folder, { recursive: true }))

let files = 0
function file(scope = 'mesh-1'): { path: string; scope: string } {
  files += 1
  return { path: join(folder, `state-${files}`), scope }
}

const raw = fc.record({
  name: fc.string(),
  version: fc.string(),
  aliases: fc.array(fc.string(), { maxLength: 3 }),
  value: fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
})

const raws = fc.array(raw, { maxLength: 5 })

function many(count: number): XdsSnapshot {
  return {
    address: Array.from({ length: count }, (_, i) => {
      const workload = aWorkload(`w${i}`)
      return { name: workload.uid, version: String(i), aliases: [`/10.0.0.${i}`], value: Buffer.from(encodeWorkload(workload)) }
    }),
    authorization: [],
    waypoint: [],
  }
}

describe('the state file', () => {
  test('gives back what was saved', async () => {
    const where = file()
    await fc.assert(fc.asyncProperty(raws, raws, raws, async (address, authorization, waypoint) => {
      await saveState(where, { address, authorization, waypoint })
      expect(await loadState(where)).toEqual({ ok: true, value: { address, authorization, waypoint } })
    }), { numRuns: 30 })
  })

  test('has several blocks when it is large, and only its owner may read it', async () => {
    const where = file()
    const snapshot = many(1234)
    await saveState(where, snapshot)
    expect(await loadState(where)).toEqual({ ok: true, value: snapshot })
    expect(statSync(where.path).mode & 0o777).toBe(0o600)
  })

  test('is ignored when it is missing, of another mesh, or too large', async () => {
    const where = file()
    expect(await loadState(where)).toMatchObject({ ok: false, because: expect.stringContaining('ENOENT') })
    await saveState(where, many(3))
    expect(await loadState({ ...where, scope: 'mesh-2' })).toEqual({ ok: false, because: 'it is of "mesh-1"' })
    expect(await loadState({ ...where, maxBytes: 100 })).toMatchObject({ ok: false, because: expect.stringContaining('over 100 bytes') })
  })

  test('is not replaced by one that is too large, and nothing is left beside it', async () => {
    const where = file('mesh-large')
    await saveState(where, many(2))
    await expect(saveState({ ...where, maxBytes: 1000 }, many(100))).rejects.toMatchObject({ code: 'OVERLOADED' })
    expect(await loadState(where)).toEqual({ ok: true, value: many(2) })
    await expect(saveState({ ...where, path: join(folder, 'nowhere/state') }, many(1))).rejects.toMatchObject({ code: 'SYSCALL_FAILED' })
    expect(readdirSync(folder).filter((name) => name.endsWith('.new'))).toEqual([])
  })

  test('what a killed process left half written is removed', async () => {
    const where = file()
    writeFileSync(`${where.path}.0d3b.new`, 'half')
    await saveState(where, many(1))
    expect((await loadState(where)).ok).toBe(true)
    expect(readdirSync(folder).filter((name) => name.endsWith('.new'))).toEqual([])
  })

  test('is ignored when a byte of it differs or is missing', async () => {
    const where = file()
    await saveState(where, many(2))
    const bytes = readFileSync(where.path)
    await fc.assert(fc.asyncProperty(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), fc.boolean(), async (at, by, isCut) => {
      const copy = Buffer.from(isCut ? bytes.subarray(0, at) : bytes)
      if (!isCut) copy[at] = (copy[at] ?? 0) ^ by
      expect(await parseState(copy, where.scope)).toMatchObject({ ok: false })
    }))
  })
})

describe('the keeper', () => {
  test('saves after changes, and at close what was not saved', async () => {
    const where = file()
    let count = 1
    const keeper = new StateKeeper(where, () => many(count), silentLogger, 5)
    keeper.changed()
    keeper.changed()
    await new Promise((resolve) => { setTimeout(resolve, 60) })
    expect(await loadState(where)).toEqual({ ok: true, value: many(1) })
    count = 2
    keeper.changed()
    await keeper.close()
    expect(await loadState(where)).toEqual({ ok: true, value: many(2) })
  })
})
