import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MeshError } from '../core/errors.ts'
import { chainableVersions, entryText, hasEntry, listOf, pluginType, withEntry, withoutEntry } from './cni-config-text.ts'

const entry = { socket: '/run/s/cni.sock', namespaces: '/var/lib/s/n.json', timeoutMs: 20_000, exempt: ['sidestep-system'] }
const own = JSON.parse(entryText(entry))

const bridge = `{
  "cniVersion": "1.0.0",
  "name": "k8s",
  "plugins": [
    {
      "type": "bridge",
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.0/24"}]]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

test('the entry is the last plugin, on a line as the others, and nothing else changes', () => {
  const chained = withEntry(bridge, entry)
  const before = JSON.parse(bridge)
  expect(JSON.parse(chained)).toEqual({ ...before, plugins: [...before.plugins, own] })
  expect(chained).toContain(`true}},\n    {"type":"${pluginType}"`)
  expect(hasEntry(chained)).toBe(true)
  expect(withEntry(chained, entry)).toBe(chained)
  expect(withoutEntry(chained)).toBe(bridge)
})

test('an entry that says something else, or is not the last, is put right', () => {
  const other = withEntry(bridge, { ...entry, timeoutMs: 1 })
  expect(withEntry(other, entry)).toBe(withEntry(bridge, entry))
  const behind = withEntry(bridge, entry).replace(/\n {2}\]/, ',\n    {"type": "late"}\n  ]')
  expect(JSON.parse(withEntry(behind, entry)).plugins.map(({ type }: { type: string }) => type)).toEqual(['bridge', 'portmap', 'late', pluginType])
  expect(JSON.parse(withoutEntry(behind)).plugins.map(({ type }: { type: string }) => type)).toEqual(['bridge', 'portmap', 'late'])
})

test('what others changed since stays', () => {
  const changed = withEntry(bridge, entry).replace('10.0.0.0/24', '10.9.0.0/16')
  expect(withoutEntry(changed)).toBe(bridge.replace('10.0.0.0/24', '10.9.0.0/16'))
})

describe('what cannot be chained', () => {
  test.each([
    ['', 'not JSON'], ['{', 'not JSON'], ['[]', 'no JSON object'], ['{"cniVersion":"1.0.0"}', 'no list'], ['{"plugins":{}}', 'no list'],
    ['{"cniVersion":"1.0.0","plugins":[]}', 'no plugins'], ['{"plugins":[{"type":"a"}]}', 'cniVersion'],
    ['{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}', 'cniVersion'], ['{"cniVersion":"2.0.0","plugins":[{"type":"a"}]}', 'cniVersion'],
  ])('%s', (text, because) => {
    expect(() => withEntry(text, entry)).toThrow(expect.objectContaining({ code: 'BAD_CONFIG', message: expect.stringContaining(because) }))
  })
})

test('one plugin becomes a list, as runtimes read it', () => {
  const single = '\n{"cniVersion": "0.3.1", "name": "k8s", "type": "calico", "mtu": 1440}\n'
  expect(JSON.parse(listOf(single))).toEqual({ cniVersion: '0.3.1', name: 'k8s', plugins: [JSON.parse(single)] })
  expect(JSON.parse(withEntry(listOf(single), entry)).plugins).toHaveLength(2)
  for (const wrong of ['{}', '{"type":"a"}', '{"name":"a"}', '{"name":"a","type":""}', 'x', '[1]']) expect(() => listOf(wrong)).toThrow(MeshError)
})

const plugins = fc.array(fc.record({ type: fc.string() }).chain((base) => fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })).map((more) => ({ ...more, ...base }))), { minLength: 1, maxLength: 5 })
const list = fc.tuple(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), plugins, fc.constantFrom(...chainableVersions), fc.constantFrom(undefined, 1, 2, '\t'))
  .map(([more, list, cniVersion, indent]) => JSON.stringify({ ...more, cniVersion, plugins: list }, null, indent))

test('whatever the list is: in, and out again, is what it was', () => {
  fc.assert(fc.property(list, (text) => {
    const chained = withEntry(text, entry)
    const before = JSON.parse(text)
    expect(JSON.parse(chained)).toEqual({ ...before, plugins: [...before.plugins, own] })
    expect(withEntry(chained, entry)).toBe(chained)
    expect(withoutEntry(chained)).toBe(text)
  }))
})

test('whatever the text is: an error of ours or an answer', () => {
  const mutated = fc.tuple(list, fc.nat(), fc.string({ maxLength: 3 })).map(([text, at, put]) => text.slice(0, at % text.length) + put + text.slice((at % text.length) + 1))
  fc.assert(fc.property(fc.oneof(mutated, fc.json(), fc.string()), (text) => {
    for (const make of [() => withEntry(text, entry), () => withoutEntry(text), () => listOf(text)]) {
      try {
        JSON.parse(make())
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
      }
    }
  }), { numRuns: 500 })
})
