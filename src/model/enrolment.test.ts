import { expect, test } from 'vitest'
import { isEnrolled } from './enrolment.ts'

const inMesh = { 'sidestep.dev/mesh': 'enabled' }

test.each([
  ['a pod of a namespace in the mesh', inMesh, {}, true],
  ['a pod that says no', inMesh, { 'sidestep.dev/mesh': 'disabled' }, false],
  ['a pod that says yes', {}, inMesh, true],
  ['a pod of a namespace outside', {}, {}, false],
  ['a word that is not the word', inMesh, { 'sidestep.dev/mesh': 'Enabled' }, false],
  ['a pod that speaks HBONE itself', inMesh, { ...inMesh, 'networking.istio.io/tunnel': 'http' }, false],
  ['a namespace cannot say that of its pods', { ...inMesh, 'networking.istio.io/tunnel': 'http' }, {}, true],
])('%s', (_what, namespace, pod, expected) => {
  expect(isEnrolled(namespace, pod)).toBe(expected)
})

const ambient = { 'istio.io/dataplane-mode': 'ambient' }
const none = { 'istio.io/dataplane-mode': 'none' }

test.each([
  ['a namespace that says it to Istio', ambient, {}, true],
  ['a pod that says it to Istio', {}, ambient, true],
  ['a pod that says no to Istio, in a namespace that says yes to us', inMesh, none, false],
  ['a pod that says yes to us and no to Istio', {}, { ...none, ...inMesh }, true],
  ['a namespace that says no to us and yes to Istio', { ...ambient, 'sidestep.dev/mesh': 'disabled' }, {}, false],
  ['a word that Istio does not know', ambient, { 'istio.io/dataplane-mode': 'sidecar' }, false],
])('%s, where Istio\'s labels are read', (_what, namespace, pod, expected) => {
  expect(isEnrolled(namespace, pod, true)).toBe(expected)
  const said = { ...namespace, ...pod }
  expect(isEnrolled(namespace, pod)).toBe('sidestep.dev/mesh' in said && said['sidestep.dev/mesh'] === 'enabled')
})
