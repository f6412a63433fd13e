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
