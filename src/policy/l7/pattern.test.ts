import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MeshError } from '../../core/errors.ts'
import type { RouteTable, TcpRule } from '../../model/route.ts'
import { compilePattern, compileSubstitution, largestProgram, longestValue } from './pattern.ts'
import { TcpRoutes } from './tcp-route.ts'

// A grammar in which RE2 and JavaScript agree; JavaScript is only safe here because the texts are short.
const atom = fc.constantFrom('a', 'b', '/', '.', '\\.', '[ab]', '[^a]', '(a|b)', '(?:ab)', '\\d', '1')
const repeated = fc.tuple(atom, fc.constantFrom('', '', '*', '+', '?', '{2}')).map(([a, r]) => a + r)
const source = fc.tuple(fc.array(repeated, { maxLength: 6 }),
  fc.constantFrom('', '|a/', '|')).map(([parts, tail]) => parts.join('') + tail)
const text = fc.array(fc.constantFrom('a', 'b', '/', '.', '1', '?'), { maxLength: 8 }).map((parts) => parts.join(''))

describe('patterns', () => {
  test('hold for the whole value, as any other engine says, whatever the literal beginning', () => {
    let held = 0
    fc.assert(fc.property(source, fc.array(text, { minLength: 20, maxLength: 20 }), (pattern, texts) => {
      const compiled = compilePattern(pattern)
      for (const value of texts) {
        const expected = new RegExp(`^(?:${pattern})$`).test(value)
        expect([pattern, value, compiled.holds(value)]).toEqual([pattern, value, expected])
        if (expected) {
          expect(value.startsWith(compiled.literalPrefix)).toBe(true)
          held++
        }
      }
    }), { numRuns: 500 })
    expect(held).toBeGreaterThan(100)
    expect(compilePattern('/api/v1/[a-z]+').literalPrefix).toBe('/api/v1/')
    expect(compilePattern('/a\\.b/c?').literalPrefix).toBe('/a.b/')
    for (const open of ['a|/b', '(?i)/a', '/?a', '.*', '\\Qa*b\\E']) expect(compilePattern(open).literalPrefix).toBe('')
  })

  test('what is no pattern or too large is a MeshError, nothing else', () => {
    for (const bad of ['(', '[', 'a**', '(?=a)', '(a)\\1', 'x'.repeat(1_025), '(?:a{900}b{900})', '\\p{Nope}']) {
      expect(() => compilePattern(bad)).toThrow(MeshError)
    }
    fc.assert(fc.property(fc.string(), fc.string(), (pattern, value) => {
      try {
        compilePattern(pattern).holds(value)
        compileSubstitution(pattern, value).apply(value)
      } catch (error) {
        expect(error).toBeInstanceOf(MeshError)
      }
    }))
    expect(largestProgram).toBeLessThanOrEqual(1_000)
    expect(compilePattern('.*').holds('a'.repeat(longestValue + 1))).toBe(false)
  })

  test('more patterns than are kept ready', () => {
    const many = Array.from({ length: 1_500 }, (_, i) => compilePattern(`/s${i}/[a-z]`))
    for (const round of ['a', 'b']) for (const [i, pattern] of many.entries()) expect(pattern.holds(`/s${i}/${round}`)).toBe(true)
  })

  test('substitutions', () => {
    const apply = (pattern: string, substitution: string, value: string): string =>
      compileSubstitution(pattern, substitution).apply(value)
    expect(apply('/v([0-9])/', '/\\1/', '/v2/x/v3/')).toBe('/2/x/3/')
    expect(apply('a*', '-', 'baac')).toBe('-b-c-')
    expect(apply('(a)|(b)', '[\\1\\2\\0\\\\]', 'ab')).toBe('[aa\\][bb\\]')
    expect(() => compileSubstitution('a', '\\x')).toThrow(MeshError)
    const swelling = `/${'a'.repeat(8_000)}`
    expect(apply('a', '\\0'.repeat(500), swelling)).toBe(swelling)
  })
})

test('server names: exact, the longest wildcard, then any', () => {
  const rule = (name: string, ...serverNames: string[]): TcpRule =>
    ({ origin: 'TLSRoute shop/t', name, serverNames, backends: [] })
  const table = (tcp: readonly TcpRule[]): RouteTable => ({ key: 't', hostnames: [], http: [], tcp, hasDefault: false })
  const routes = new TcpRoutes([table([rule('any'), rule('wild', '*.Test'), rule('deep', '*.a.test'), rule('one', 'x.a.test'),
    rule('late', 'x.a.test')])])
  expect(['X.a.test', 'x.a.test.', 'y.a.test', 'q.y.a.test', 'b.test', 'test', 'other', '',
    undefined].map((name) => routes.match(name, undefined)?.name))
    .toEqual(['one', 'one', 'deep', 'deep', 'wild', 'any', 'any', 'any', 'any'])
  expect(new TcpRoutes([table([rule('one', 'a')])]).match(undefined, undefined)).toBeUndefined()
  fc.assert(fc.property(fc.string(), (name) => {
    expect(routes.match(name, undefined)).toBeDefined()
  }))
})

test('rules of callers: only their namespace meets them, and a rule for every name ends its list', () => {
  const rule = (name: string, sourceNamespaces: readonly string[] | undefined, ...serverNames: string[]): TcpRule =>
    ({ origin: 'TLSRoute shop/t', name, serverNames, backends: [], ...(sourceNamespaces && { sourceNamespaces }) })
  const consumer = [rule('guest-a', ['guest'], 'a.test'), rule('guest-none', ['guest'])]
  const producer = [rule('own-b', undefined, 'b.test'), rule('own', undefined)]
  const routes = new TcpRoutes([{ tcp: [...consumer, ...producer] }])
  const of = (serverName: string | undefined, namespace: string | undefined): string | undefined => routes.match(serverName, namespace)?.name
  expect([of('a.test', 'guest'), of('b.test', 'guest'), of(undefined, 'guest')]).toEqual(['guest-a', 'guest-none', 'guest-none'])
  expect([of('a.test', 'shop'), of('b.test', 'shop'), of('b.test', undefined), of(undefined, 'shop')]).toEqual(['own', 'own-b', 'own-b', 'own'])
  // A condition among others (VirtualService) closes nothing before it.
  const virtual = new TcpRoutes([{ tcp: [rule('all-a', undefined, 'a.test'), rule('all', undefined), rule('late', ['guest'])] }])
  expect([virtual.match('a.test', 'guest')?.name, virtual.match('b.test', 'guest')?.name]).toEqual(['all-a', 'all'])
  const open = new TcpRoutes([{ tcp: [rule('guest', ['guest'], 'a.test'), rule('all', undefined, '*')] }])
  expect([open.match('a.test', 'guest')?.name, open.match('b.test', 'guest')?.name, open.match('a.test', 'shop')?.name]).toEqual(['guest', 'all', 'all'])
  expect([routes.isEmpty, routes.hasServerNames, new TcpRoutes([]).isEmpty]).toEqual([false, true, true])
  expect(new TcpRoutes([{ tcp: [rule('only', ['guest'])] }]).match(undefined, undefined)).toBeUndefined()
})
