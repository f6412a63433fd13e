import { expect, test } from 'vitest'
import { errorCodes } from '../core/errors.ts'
import { errorOfStatus, statusOfError } from './connect-status.ts'

test.each([
  ['POLICY_DENIED', 401], ['BAD_MESSAGE', 400], ['PEER_IDENTITY_MISMATCH', 400], ['NOT_FOUND', 503], ['CONNECT_REFUSED', 503],
  ['CONNECT_TIMEOUT', 503], ['NO_HEALTHY_UPSTREAM', 503], ['OVERLOADED', 429],
] as const)('%s is answered with %d', (code, status) => {
  expect(statusOfError(code)).toBe(status)
})

test.each([
  [400, 'TUNNEL_REFUSED', 'never'], [401, 'POLICY_DENIED', 'never'], [403, 'POLICY_DENIED', 'never'], [404, 'TUNNEL_REFUSED', 'never'],
  [429, 'OVERLOADED', 'always'], [503, 'TUNNEL_REFUSED', 'always'], [504, 'CONNECT_TIMEOUT', 'always'], [999, 'TUNNEL_REFUSED', 'never'],
])('%d means %s, retry %s', (status, code, retry) => {
  expect(errorOfStatus(status, { a: 1 })).toMatchObject({ code, retry, source: 'upstream', detail: { status, a: 1 } })
})

test('every code has a status, and comes back as an error', () => {
  for (const code of errorCodes) expect(errorOfStatus(statusOfError(code)).detail['status']).toBeGreaterThanOrEqual(400)
})
