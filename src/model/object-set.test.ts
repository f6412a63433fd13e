import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { objectKey } from './manifest.ts'
import { parseManifest } from './manifest-parse.ts'
import { ObjectSet } from './object-set.ts'

const namespace = (name: string, label = ''): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name}, labels: { l: "${label}" } }\n---\n`
const badNamespace = (name: string): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name}, labels: 3 }\n---\n`

function labelsOf(set: ObjectSet): Record<string, string | undefined> {
  return Object.fromEntries([...set.objects.values()].map((object) => [object.metadata.name, object.metadata.labels['l']]))
}

describe('a set of objects', () => {
  test('a bad object keeps its last good state, and nothing else of its file is held back', () => {
    const set = new ObjectSet()
    set.setFile('a', parseManifest(namespace('x', '1') + namespace('y', '1'), 'a'))
    set.takeChanges()
    set.setFile('a', parseManifest(badNamespace('x') + namespace('y', '2') + namespace('z', '2'), 'a'))
    expect(labelsOf(set)).toEqual({ x: '1', y: '2', z: '2' })
    expect([...set.takeChanges().keys()]).toEqual(['Namespace y', 'Namespace z'])
    expect(set.problems()).toEqual([expect.objectContaining({ object: 'Namespace x' })])
  })

  test('a file that does not read keeps all of its last good state; a file that goes takes all with it', () => {
    const set = new ObjectSet()
    set.setFile('a', parseManifest(namespace('x', '1'), 'a'))
    set.setFile('a', parseManifest(`${namespace('x', '2')}kind: [`, 'a'))
    expect(labelsOf(set)).toEqual({ x: '1' })
    set.removeFile('a')
    expect([labelsOf(set), set.problems(), set.takeChanges().get('Namespace x')]).toEqual([{}, [], undefined])
  })

  test('what is applied wins over files, until it is taken back', () => {
    const set = new ObjectSet()
    set.setFile('a', parseManifest(namespace('x', 'file'), 'a'))
    set.apply(parseManifest(namespace('x', 'applied'), 'applied').objects)
    expect(labelsOf(set)).toEqual({ x: 'applied' })
    expect([set.unapply('Namespace x'), set.unapply('Namespace x')]).toEqual([true, false])
    expect(labelsOf(set)).toEqual({ x: 'file' })
  })

  test('files in any order, with any history, come to the same objects; changes tell the whole way there', () => {
    const content = fc.array(fc.tuple(fc.constantFrom('x', 'y', 'z'), fc.constantFrom('1', '2')), { maxLength: 4 })
    const step = fc.record({ file: fc.constantFrom('a', 'b', 'c'), content: fc.option(content) })
    fc.assert(fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      const set = new ObjectSet()
      const told = new Map<string, unknown>()
      const last = new Map<string, string>()
      for (const { file, content } of steps) {
        const text = content?.map(([name, label]) => namespace(name, label)).join('')
        if (text === undefined) last.delete(file)
        else last.set(file, text)
        if (text === undefined) set.removeFile(file)
        else set.setFile(file, parseManifest(text, file))
        for (const [key, object] of set.takeChanges()) {
          if (object) told.set(key, object)
          else told.delete(key)
        }
      }
      const fresh = new ObjectSet()
      for (const [file, text] of [...last].reverse()) fresh.setFile(file, parseManifest(text, file))
      expect(labelsOf(set)).toEqual(labelsOf(fresh))
      expect([...set.inOrder()]).toEqual([...fresh.inOrder()])
      expect(set.problems()).toEqual(fresh.problems())
      expect(new Map([...set.inOrder()].map((object) => [objectKey(object), object]))).toEqual(told)
    }))
  })
})
