import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { SessionPersistence } from '../../model/route.ts'
import { SessionTokens } from './session-persistence.ts'

const key = Buffer.alloc(32, 7)
const endpoints: readonly string[] = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80']
const policy: SessionPersistence = { kind: 'cookie', name: 'sid', idleMs: 60_000, absoluteMs: 600_000, isPermanent: true }
const tokens = new SessionTokens({ keys: [key] }, 'HTTPRoute shop/cart', policy)
const now = 1_800_000_000_000

test('a token brings its endpoint back, on every replica, and says nothing about it', () => {
  for (const endpoint of endpoints) {
    const token = tokens.make(endpoint, now)
    const replica = new SessionTokens({ keys: [Buffer.alloc(32, 7)] }, 'HTTPRoute shop/cart', policy)
    expect(replica.read(token, [...endpoints], now)).toMatchObject({ t: 'stick', endpoint, createdMs: now, isRefreshDue: false })
    expect(Buffer.from(token, 'base64url').toString('latin1')).not.toContain('10.0')
  }
})

test('any change, another route, another key: none', () => {
  const token = tokens.make('10.0.0.1:80', now)
  fc.assert(fc.property(fc.nat(Buffer.from(token, 'base64url').length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
    const bytes = Buffer.from(token, 'base64url')
    bytes[at] = (bytes[at] ?? 0) ^ flip
    expect(tokens.read(bytes.toString('base64url'), endpoints, now)).toEqual({ t: 'none', because: 'notOurs' })
  }))
  expect(new SessionTokens({ keys: [key] }, 'other', policy).read(token, endpoints, now)).toMatchObject({ because: 'notOurs' })
  expect(new SessionTokens({ keys: [Buffer.alloc(32, 8)] }, 'HTTPRoute shop/cart', policy).read(token, endpoints,
    now)).toMatchObject({ because: 'notOurs' })
})

test('no text makes it throw', () => {
  fc.assert(fc.property(fc.oneof(fc.string(), fc.string({ minLength: 48, maxLength: 48 }), fc.base64String()), (text) => {
    expect(tokens.read(text, endpoints, now).t).toBe('none')
  }))
  expect(tokens.read(undefined, endpoints, now)).toMatchObject({ because: 'noToken' })
})

test('times, endpoints that left, and keys that rotate', () => {
  const token = tokens.make('10.0.0.1:80', now)
  expect(tokens.read(token, endpoints, now + 30_000)).toMatchObject({ t: 'stick', isRefreshDue: true })
  expect(tokens.read(token, endpoints, now + 62_000)).toMatchObject({ because: 'expired' })
  const refreshed = tokens.make('10.0.0.1:80', now + 590_000, now)
  expect(tokens.read(refreshed, endpoints, now + 599_000)).toMatchObject({ t: 'stick' })
  expect(tokens.read(refreshed, endpoints, now + 602_000)).toMatchObject({ because: 'expired' })
  expect(tokens.read(token, ['10.0.0.2:80'], now)).toMatchObject({ because: 'endpointGone' })
  const rotated = new SessionTokens({ keys: [Buffer.alloc(32, 9), key] }, 'HTTPRoute shop/cart', policy)
  expect(rotated.read(token, endpoints, now)).toMatchObject({ t: 'stick', isRefreshDue: true })
  expect(tokens.cookie(token, true)).toBe(`sid=${token}; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=600`)
})
