// Objects applied by hand, as files: what a reader of the directory finds is what was applied last, whatever the order and however
// much of it there is.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { readDirectory } from '../core/directory.ts'
import { objectKey } from '../model/manifest.ts'
import { manifestFiles } from '../model/manifest-parse.ts'
import { AppliedObjects } from './applied-objects.ts'

let directory = ''
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-applied-'))
})
afterEach(() => rmSync(directory, { recursive: true }))

/** By key, the label `v` of each object found; fails for a file with problems. */
async function found(): Promise<Record<string, string | undefined>> {
  const { files } = await readDirectory(directory, manifestFiles)
  const readings = [...files.values()]
  expect(readings.flatMap(({ problems }) => problems)).toEqual([])
  return Object.fromEntries(readings.flatMap(({ objects }) => objects.map((object) => [objectKey(object), object.metadata.labels['v']])))
}
const namespace = (name: string, v: string): object => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels: { v } } })
const account = (name: string, v: string, more: object = {}): object => ({ apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, labels: { v }, ...more } })

test('what was applied last counts, Lists and defaults are understood, pods and strange kinds are left out', async () => {
  const applied = new AppliedObjects(directory)
  const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p' }, spec: { containers: [{ name: 'm', command: ['true'] }] } }
  applied.apply([namespace('a', '1'), pod, { apiVersion: 'v1', kind: 'Endpoints', metadata: { name: 'c' } }].map((each) => stringify(each)).join('---\n'))
  applied.apply(stringify({ apiVersion: 'v1', kind: 'List', items: [account('s', '1', { namespace: null }), namespace('b', '1')] }))
  applied.apply('# nothing\n---\n')
  applied.apply(JSON.stringify(account('s', '2', { namespace: 'default' })))
  expect(await found()).toEqual({ 'Namespace a': '1', 'Namespace b': '1', 'ServiceAccount default/s': '2' })
  applied.unapply('ServiceAccount default/s')
  applied.unapply('Pod default/p')
  expect(await found()).toEqual({ 'Namespace a': '1', 'Namespace b': '1' })
  for (const key of ['Namespace a', 'Namespace b']) applied.unapply(key)
  expect(readdirSync(directory)).toEqual([])
})

test('what Gateways became lies beside what was applied, and is replaced as a whole', async () => {
  const [applied, generated] = [new AppliedObjects(directory), new AppliedObjects(directory, 'generated')]
  applied.apply(stringify(namespace('a', '1')))
  const [b, c] = [account('b', '1'), account('c', '1')]
  generated.replace([b, c])
  expect(await found()).toEqual({ 'Namespace a': '1', 'ServiceAccount default/b': '1', 'ServiceAccount default/c': '1' })
  generated.replace([c])
  applied.unapply('Namespace a')
  expect(await found()).toEqual({ 'ServiceAccount default/c': '1' })
  generated.replace([])
  expect(readdirSync(directory)).toEqual([])
})

test('thousands of objects, and large ones, stay within what a file may hold', async () => {
  const applied = new AppliedObjects(directory)
  const names = Array.from({ length: 900 }, (_, i) => `n${i}`)
  for (let at = 0; at < names.length; at += 300) applied.apply(names.slice(at, at + 300).map((name) => stringify(namespace(name, '1'))).join('---\n'))
  for (let i = 0; i < 8; i++) applied.apply(stringify(account(`big${i}`, 'x'.repeat(200_000))))
  const all = await found()
  expect(Object.keys(all)).toHaveLength(908)
  expect(readdirSync(directory).length).toBeGreaterThan(6)
})

test('any sequence of applying and taking back leaves what it should', async () => {
  const name = fc.constantFrom('a', 'b', 'c', 'd')
  const step = fc.oneof(fc.record({ name, v: fc.stringMatching(/^[a-z0-9]{1,5}$/) }), fc.record({ gone: name }))
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
    const place = mkdtempSync(join(tmpdir(), 'sidestep-applied-'))
    const applied = new AppliedObjects(place)
    const expected = new Map<string, string>()
    for (const each of steps) {
      if ('gone' in each) {
        applied.unapply(`Namespace ${each.gone}`)
        expected.delete(`Namespace ${each.gone}`)
      } else {
        applied.apply(stringify(namespace(each.name, each.v)))
        expected.set(`Namespace ${each.name}`, each.v)
      }
    }
    const { files } = await readDirectory(place, manifestFiles)
    rmSync(place, { recursive: true })
    expect(new Map([...files.values()].flatMap(({ objects }) => objects.map((object) => [objectKey(object), object.metadata.labels['v']])))).toEqual(expected)
  }), { numRuns: 50 })
})
