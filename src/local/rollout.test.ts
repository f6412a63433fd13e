import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseManifest } from '../model/manifest-parse.ts'
import { Catalogue, selects } from './catalogue.ts'
import { chooseNode, planRollout, replicaName, type RolloutPod } from './rollout.ts'

/** Runs a rollout to its end: new pods become ready a step later, removed ones vanish. Calls `watch` after each step. */
function simulate(replicas: number, start: RolloutPod[], strategy: 'RollingUpdate' | 'Recreate', watch: (pods: RolloutPod[]) => void): RolloutPod[] {
  let pods = start
  let serial = 0
  for (let step = 0; step < 100; step++) {
    const plan = planRollout({ replicas, hash: 'new', strategy }, pods)
    if (plan.create === 0 && plan.remove.length === 0 && pods.every((p) => p.isReady && !p.isTerminating)) return pods
    pods = pods.filter((p) => !p.isTerminating).map((p) => (plan.remove.includes(p.name) ? { ...p, isTerminating: true, isReady: false } : { ...p, isReady: true }))
    for (let i = 0; i < plan.create; i++) pods.push({ name: `n${serial++}`, hash: 'new', isReady: false, isTerminating: false, createdMs: step })
    watch(pods)
  }
  throw new Error('the rollout does not end')
}

const oldPods = (count: number): RolloutPod[] =>
  Array.from({ length: count }, (_, i) => ({ name: `o${i}`, hash: 'old', isReady: true, isTerminating: false, createdMs: 0 }))

describe('a rollout', () => {
  test('ends with exactly the wanted pods and never has fewer ready than wanted, nor more than one too many', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 6 }), (replicas) => {
        const end = simulate(replicas, oldPods(replicas), 'RollingUpdate', (pods) => {
          const live = pods.filter((p) => !p.isTerminating)
          expect(live.length).toBeLessThanOrEqual(replicas + 1)
          expect(live.filter((p) => p.isReady).length).toBeGreaterThanOrEqual(replicas)
        })
        expect(end.map((p) => p.hash)).toEqual(Array.from({ length: replicas }, () => 'new'))
      }),
    )
  })

  test('ends from any start, up and down', () => {
    const pod = fc.record({ hash: fc.constantFrom('old', 'older', 'new'), isReady: fc.boolean(), isTerminating: fc.boolean(), createdMs: fc.nat(9) })
    fc.assert(
      fc.property(fc.nat(6), fc.array(pod, { maxLength: 8 }), fc.constantFrom('RollingUpdate' as const, 'Recreate' as const), (replicas, some, strategy) => {
        const end = simulate(replicas, some.map((p, i) => ({ ...p, name: `p${i}` })), strategy, () => {})
        expect(end).toHaveLength(replicas)
        expect(end.every((p) => p.hash === 'new')).toBe(true)
      }),
    )
  })

  test('Recreate never mixes old and new', () => {
    simulate(3, oldPods(3), 'Recreate', (pods) => expect(new Set(pods.map((p) => p.hash)).size).toBeLessThanOrEqual(1))
  })

  test('names are new and fit', () => {
    let n = 0
    const name = replicaName('x'.repeat(253), '0123456789', () => n++ === 0)
    expect(name.length).toBeLessThanOrEqual(253)
    expect(name).toMatch(/-0123456789-[a-z0-9]{5}$/)
  })
})

describe('placing a pod', () => {
  const spec = (text: string) => {
    const [object] = parseManifest(`apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, command: [x]}]${text}}`, 'f').objects
    if (object?.kind !== 'Pod') throw new Error('not a pod')
    return object.spec
  }
  const nodes = [{ name: 'node-a', pods: 3 }, { name: 'node-b', pods: 1 }]
  test.each([
    ['', { node: 'node-b' }],
    [', nodeName: node-a', { node: 'node-a' }],
    [', nodeSelector: {kubernetes.io/hostname: node-a}', { node: 'node-a' }],
    [', nodeName: node-x', { because: 'there is no node node-x; this mesh has node-a, node-b' }],
    [', nodeSelector: {disk: ssd}', { because: 'no node has the label disk' }],
  ])('%s', (text, answer) => expect(chooseNode(spec(text), nodes)).toEqual(answer))
})

describe('the catalogue', () => {
  const namespace = (name: string): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name}, labels: { from: ${name} } }\n`
  test('keeps the last good state of a bad file and reports it', () => {
    const catalogue = new Catalogue()
    catalogue.setFile('a.yaml', parseManifest(namespace('a'), 'a.yaml'))
    catalogue.setFile('a.yaml', parseManifest('kind: [', 'a.yaml'))
    expect([...catalogue.desired().namespaces.keys()]).toEqual(['default', 'a'])
    expect(catalogue.desired().problems[0]).toMatchObject({ file: 'a.yaml' })
    catalogue.setFile('a.yaml', parseManifest(namespace('b'), 'a.yaml'))
    expect([...catalogue.desired().namespaces.keys()]).toEqual(['default', 'b'])
    expect(catalogue.desired().problems).toEqual([])
    catalogue.removeFile('a.yaml')
    expect([...catalogue.desired().namespaces.keys()]).toEqual(['default'])
  })

  test('of two with one name the first file counts, whichever was read first', () => {
    const catalogue = new Catalogue()
    catalogue.setFile('b.yaml', parseManifest(`# b\n${namespace('x')}`, 'b.yaml'))
    catalogue.setFile('a.yaml', parseManifest(namespace('x'), 'a.yaml'))
    expect(catalogue.desired().problems).toEqual([
      { file: 'b.yaml', line: 2, reason: 'Namespace x is already defined in a.yaml:1; that one counts' },
    ])
  })

  test('a selector takes pods that have all of its labels; none takes nothing', () => {
    expect(selects({ a: '1' }, { a: '1', b: '2' })).toBe(true)
    expect(selects({ a: '1', c: '' }, { a: '1' })).toBe(false)
    expect(selects({}, { a: '1' })).toBe(false)
    expect(selects(undefined, {})).toBe(false)
  })
})
