import fc from 'fast-check'
import { expect, test } from 'vitest'
import { podEnrolmentSchema } from './enrolment.ts'
import { readNameSearch } from './resolv-conf.ts'

test.each([
  ['', { searchDomains: [], ndots: 1 }],
  ['nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5 timeout:2\n', { searchDomains: ['shop.svc.cluster.local', 'svc.cluster.local'], ndots: 5 }],
  ['search a b\n  search\tExample.ORG. \n', { searchDomains: ['example.org'], ndots: 1 }],
  ['domain example.org\n#search x\noptions ndots:99\n', { searchDomains: ['example.org'], ndots: 15 }],
  ['options ndots:2 ndots:3 ndots:x\nsearch .', { searchDomains: [], ndots: 3 }],
])('%j', (text, expected) => {
  expect(readNameSearch(text)).toEqual(expected)
})

test('whatever the text, what is read can be told to a ztunnel', () => {
  const line = fc.oneof(fc.string(), fc.constantFrom('search ', 'options ndots:', 'domain ').chain((start) => fc.string().map((rest) => start + rest)))
  fc.assert(fc.property(fc.array(line).map((lines) => lines.join('\n')), (text) => {
    expect(podEnrolmentSchema.shape.nameSearch.safeParse(readNameSearch(text)).success).toBe(true)
  }))
})
