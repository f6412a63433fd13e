import { anything, assert, property } from 'fast-check'
import { expect, test } from 'vitest'
import { dnsSettings, nameSearch } from './name-search.ts'

const node = { searchDomains: ['corp.example'], ndots: 1 }
const search = (policy: unknown, config?: unknown): unknown => nameSearch(dnsSettings(policy, config), 'shop', 'cluster.local', node)

test('the usual is not told', () => {
  for (const policy of [undefined, 'ClusterFirst', 'ClusterFirstWithHostNet']) expect(search(policy)).toBeUndefined()
  expect(search('ClusterFirst', { nameservers: ['10.0.0.1'] })).toBeUndefined()
})

test('what differs is, as the kubelet writes it', () => {
  expect(search('Default')).toEqual({ searchDomains: ['corp.example'], ndots: 1 })
  expect(search('None')).toEqual({ searchDomains: [], ndots: 1 })
  expect(search('None', { searches: ['a.example', 'B.example.'], options: [{ name: 'ndots', value: '3' }, { name: 'edns0' }] })).toEqual({ searchDomains: ['a.example', 'b.example'], ndots: 3 })
  expect(search('ClusterFirst', { searches: ['a.example'], options: [{ name: 'ndots', value: '99' }] })).toEqual({
    searchDomains: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local', 'corp.example', 'a.example'], ndots: 15,
  })
})

test('any settings are read', () => {
  assert(property(anything(), anything(), (policy, config) => {
    const found = nameSearch(dnsSettings(policy, config), 'shop', 'cluster.local', node)
    if (found) expect(found.searchDomains.length).toBeLessThanOrEqual(32)
  }))
})
