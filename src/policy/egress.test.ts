import { describe, expect, test } from 'vitest'
import { egressLabel, egressSetting, type EgressMode } from '../model/egress.ts'
import type { Destination } from './destination.ts'
import { egressVerdict, type EgressDefaults } from './egress.ts'
import { testService } from './test-fixtures.ts'

const outside = (ip: string): Destination => ({ t: 'passthrough', to: { ip, port: 443 }, because: 'unknownDestination' })
function defaults(mesh: EgressMode, labels: Readonly<Record<string, string>> = {}): EgressDefaults {
  const setting = egressSetting(labels)
  return { mesh, namespaces: new Map(setting ? [['shop', setting]] : []) }
}

describe('a destination outside the mesh', () => {
  test.each([
    ['allow', undefined, { allowed: true, because: 'egressAllowed', isAudited: false, decidedBy: 'mesh' }],
    ['deny', undefined, { allowed: false, because: 'egressDenied', decidedBy: 'mesh' }],
    ['deny', 'audit', { allowed: true, because: 'egressAudited', isAudited: true, decidedBy: 'namespace' }],
    ['allow', 'deny', { allowed: false, because: 'egressDenied', decidedBy: 'namespace' }],
    ['deny', 'allow', { allowed: true, because: 'egressAllowed', isAudited: false, decidedBy: 'namespace' }],
    ['allow', 'Deny', { allowed: false, because: 'egressUnreadable', decidedBy: 'namespace' }],
    ['allow', '', { allowed: false, because: 'egressUnreadable', decidedBy: 'namespace' }],
  ] as const)('mesh %s, namespace %s', (mesh, label, expected) => {
    expect(egressVerdict(defaults(mesh, label === undefined ? {} : { [egressLabel]: label }), 'shop',
      outside('1.1.1.1'))).toEqual(expected)
  })

  test('other namespaces keep the default of the mesh', () => {
    expect(egressVerdict(defaults('allow', { [egressLabel]: 'deny' }), 'other',
      outside('1.1.1.1'))).toMatchObject({ allowed: true })
  })

  test('what the mesh knows, and loopback, is no egress', () => {
    const deny = defaults('deny')
    expect(egressVerdict(deny, 'shop', outside('127.0.0.1'))).toBeUndefined()
    expect(egressVerdict(deny, 'shop', outside('::1'))).toBeUndefined()
    expect(egressVerdict(deny, 'shop', { t: 'passthrough', to: { ip: '1.1.1.1', port: 443 }, because: 'passthroughService',
      service: testService('x') })).toBeUndefined()
    expect(egressVerdict(deny, 'shop', { t: 'refuse', because: 'selfCall', code: 'CONNECT_REFUSED' })).toBeUndefined()
  })
})
