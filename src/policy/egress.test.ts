import { describe, expect, test } from 'vitest'
import { egressLabel, egressSetting } from '../model/egress.ts'
import type { Destination } from './destination.ts'
import { egressVerdict, leavesMesh } from './egress.ts'
import { testService, testWorkload } from './test-fixtures.ts'

const outside = (ip: string): Destination => ({ t: 'passthrough', to: { ip, port: 443 }, because: 'unknownDestination' })

describe('a destination outside the mesh', () => {
  test.each([
    [undefined, { allowed: true, because: 'egressAllowed', isAudited: false }],
    ['allow', { allowed: true, because: 'egressAllowed', isAudited: false }],
    ['audit', { allowed: true, because: 'egressAudited', isAudited: true }],
    ['deny', { allowed: false, because: 'egressDenied' }],
    ['Deny', { allowed: false, because: 'egressUnreadable' }],
    ['', { allowed: false, because: 'egressUnreadable' }],
  ] as const)('from a namespace that says %s', (label, expected) => {
    const egress = egressSetting(label === undefined ? {} : { [egressLabel]: label })
    expect(egressVerdict(testWorkload('pod', egress && { egress }))).toEqual(expected)
  })

  test('is one that nobody in the mesh knows, and not loopback', () => {
    expect([leavesMesh(outside('1.1.1.1')), leavesMesh(outside('2001:db8::1'))]).toEqual([true, true])
    expect([leavesMesh(outside('127.0.0.1')), leavesMesh(outside('::1'))]).toEqual([false, false])
    expect(leavesMesh({ t: 'passthrough', to: { ip: '1.1.1.1', port: 443 }, because: 'passthroughService', service: testService('x') })).toBe(false)
    expect(leavesMesh({ t: 'refuse', because: 'selfCall', code: 'CONNECT_REFUSED' })).toBe(false)
  })
})
