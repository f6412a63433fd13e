// Secrets, ConfigMaps and providers: what is read, what is refused, and that nothing of a Secret is ever told.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ManifestObject } from './manifest.ts'
import { parseManifest } from './manifest-parse.ts'

const b64 = (text: string): string => Buffer.from(text).toString('base64')
const secret = (fields: object): string => JSON.stringify({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 's', namespace: 'shop' }, ...fields })
const provider = (spec: object): string => JSON.stringify({ apiVersion: 'sidestep.dev/v1alpha1', kind: 'AuthorizationProvider', metadata: { name: 'p', namespace: 'shop' }, spec })
const first = (text: string): ManifestObject | undefined => parseManifest(text, 'f.yaml').objects[0]
const reasons = (text: string): readonly string[] => parseManifest(text, 'f.yaml').problems.map(({ reason }) => reason)

describe('a Secret', () => {
  test('is decoded; text counts before base64; other fields are dropped', () => {
    const folded = `${b64('leaf and more').slice(0, 4)}\n  ${b64('leaf and more').slice(4)}\n`
    expect(first(secret({ type: 'kubernetes.io/tls', immutable: true, data: { 'tls.crt': folded, 'tls.key': b64('a') }, stringData: { 'tls.key': 'b' } })))
      .toMatchObject({ kind: 'Secret', type: 'kubernetes.io/tls', data: { 'tls.crt': 'leaf and more', 'tls.key': 'b' } })
    expect(first(secret({}))).toMatchObject({ type: 'Opaque', data: {} })
    expect(first(JSON.stringify({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'c' }, data: { 'ca.crt': 'x' }, binaryData: { y: 'eA==' } }))).toMatchObject({ data: { 'ca.crt': 'x' } })
  })

  test.each([
    ['base64', { data: { 'tls.key': 'hunter2!' } }], ['text', { stringData: { 'tls.key': { hunter2: 'hunter2' } } }], ['mapping', { data: ['hunter2'] }],
    ['letters', { data: { 'hunter2 hunter2': b64('x') } }], ['base64', { data: { ['hunter2'.repeat(9)]: 'x' } }],
  ])('that is none is refused for want of %s, without a word of it', (what, fields) => {
    expect(reasons(secret(fields)).join()).toContain(what)
    expect(reasons(secret(fields)).join()).not.toContain('hunter2')
  })

  test('is not told by what its file looks like either', () => {
    fc.assert(fc.property(fc.constantFrom('tls.key: hunter2\n hunter2', 'tls.key: "hunter2', '- hunter2', '} hunter2', '? hunter2 :', '"hunter2" "hunter2"', 'hunter2: hunter2: hunter2', '|hunter2'), fc.nat(6), (line, indent) => {
      const text = `apiVersion: v1\nkind: Secret\nmetadata: { name: s }\nstringData:\n${' '.repeat(indent)}${line}\n`
      expect(reasons(text).join()).not.toMatch(/hunter2/)
    }), { numRuns: 200 })
  })
})

describe('an AuthorizationProvider', () => {
  test('has defaults that are closed', () => {
    expect(first(provider({ protocol: 'GRPC', service: 'opa', port: 9191 }))).toMatchObject({ spec: { timeout: 1000, failOpen: false, statusOnError: 403, maxBodyBytes: 0 } })
    expect(first(provider({ protocol: 'HTTP', service: 'opa.shop.svc.cluster.local', port: 80, headersToUpstream: ['X-User'], pathPrefix: '/check' }))).toMatchObject({ spec: { headersToUpstream: ['x-user'], pathPrefix: '/check' } })
  })

  test.each([
    ['port', { protocol: 'GRPC', service: 'opa' }], ['pathPrefix', { protocol: 'GRPC', service: 'opa', port: 1, pathPrefix: '/x' }], ['failopen', { protocol: 'GRPC', service: 'opa', port: 1, failopen: true }],
    ['headersToUpstream', { protocol: 'HTTP', service: 'opa', port: 1, headersToUpstream: ['Content-Length'] }], ['statusOnError', { protocol: 'HTTP', service: 'opa', port: 1, statusOnError: 200 }],
  ])('with a bad %s is refused', (field, spec) => expect(reasons(provider(spec)).join()).toContain(field))
})
