import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isUnder, normalisePath, patternPath, type PathRefusal } from './path.ts'

const both = (path: string): readonly [string, string] => {
  const decision = normalisePath(path)
  if (decision.t === 'refused') throw new Error(`${path} was refused: ${decision.because}`)
  return [decision.path, decision.matched]
}
const why = (path: string): PathRefusal | undefined => {
  const decision = normalisePath(path)
  return decision.t === 'refused' ? decision.because : undefined
}

describe('one path for everybody', () => {
  test.each([
    ['/', '/', '/'],
    ['/a/b', '/a/b', '/a/b'],
    ['/%7euser/%61', '/~user/a', '/~user/a'],
    ['/a%2e/%2e/b/', '/a./b/', '/a./b/'],
    ['/a//b///c', '/a/b/c', '/a/b/c'],
    ['//admin', '/admin', '/admin'],
    ['/a/./b/../c', '/a/c', '/a/c'],
    ['/a/%2e%2E/admin', '/admin', '/admin'],
    ['/a/..', '/', '/'],
    ['/a/b/..', '/a/', '/a/'],
    ['/a/b/.', '/a/b/', '/a/b/'],
    ['/a;v=1/b;c', '/a;v=1/b;c', '/a/b'],
    ['/;x/admin', '/admin', '/admin'],
    ['/a/;x', '/a/', '/a/'],
    ['/a%3bx', '/a%3Bx', '/a;x'],
    ['/caf%c3%a9', '/caf%C3%A9', '/café'],
    ['/caf\u00c3\u00a9', '/caf%C3%A9', '/café'],
    ['/a%20b{c}', '/a%20b%7Bc%7D', '/a b{c}'],
    ['/%252e%252e/x', '/%252e%252e/x', '/%252e%252e/x'],
    ['/.hidden/..x', '/.hidden/..x', '/.hidden/..x'],
    ['*', '*', '*'],
  ])('%s', (raw, path, matched) => {
    expect(both(raw)).toEqual([path, matched])
  })

  test.each<[string, PathRefusal]>([
    ['', 'notAbsolute'], ['a/b', 'notAbsolute'], ['**', 'notAbsolute'], ['/a b', 'badCharacter'], ['/a\\b', 'badCharacter'],
      ['/a#b', 'badCharacter'],
    ['/a\nb', 'badCharacter'], ['/\u0131', 'badCharacter'], ['/%', 'badEscape'], ['/%4', 'badEscape'], ['/%zz', 'badEscape'],
    ['/%00', 'escapedControl'], ['/%0d%0a', 'escapedControl'], ['/%7f', 'escapedControl'], ['/a%2fb', 'escapedSlash'],
    ['/a%5Cb', 'escapedSlash'], ['/..', 'aboveRoot'], ['/a/../..', 'aboveRoot'], ['/%2e%2e/x', 'aboveRoot'],
    ['/a/..;/admin', 'dotWithParameters'], ['/a/.;x/admin', 'dotWithParameters'], ['/a/%2e%2e;x/admin', 'dotWithParameters'],
    ['/a/..%3bx/admin', 'dotWithParameters'], ['/%c0%af', 'notUtf8'], ['/%e0%80%ae', 'notUtf8'], ['/%ff', 'notUtf8'],
      ['/a;%2f', 'escapedSlash'],
    ['/;%00/x', 'escapedControl'],
  ])('refuses %j: %s', (raw, because) => {
    expect(why(raw)).toBe(because)
  })

  test('kept slashes separate nothing and hide no dots', () => {
    const keep = { escapedSlashes: 'keep' } as const
    expect(normalisePath('/group%2fname', keep)).toEqual({ t: 'path', path: '/group%2Fname', matched: '/group%2Fname' })
    for (const path of ['/a%2f..%2fadmin', '/a%2f%2e%2e', '/..%5cx', '/a%2f..;x']) {
      expect(normalisePath(path, keep)).toEqual({ t: 'refused', because: 'escapedSlash' })
    }
  })

  test('too long is refused before it is read', () => {
    expect(why(`/${'a/'.repeat(40_000)}`)).toBe('tooLong')
  })
})

// Every way in which a client can write something dangerous, and more.
const piece = fc.constantFrom('/', '/', '/', 'a', 'admin', '.', '..', '%2e', '%2E%2e', '%2f', '%5c', '\\', ';', ';x=1', '%3b',
  '%25', '%252f', '%c3%a9', '%61', '%ff', '{', '~', 'é', ' ', '%00')
const hostile = fc.oneof(fc.array(piece, { maxLength: 12 }).map((parts) => `/${parts.join('')}`), fc.string())

describe('properties', () => {
  test('making it canonical twice changes nothing, and both forms have the same segments', () => {
    fc.assert(fc.property(hostile, fc.constantFrom('keep', 'refuse'), (raw, escapedSlashes) => {
      const once = normalisePath(raw, { escapedSlashes })
      if (once.t === 'refused') return
      expect(normalisePath(once.path, { escapedSlashes })).toEqual(once)
      expect(once.path.split('/').length).toBe(once.matched.split('/').length)
    }), { numRuns: 3000 })
  })

  test('what a backend may make of it is what was matched: decoded, without parameters, no dots, no empty segments', () => {
    fc.assert(fc.property(hostile, (raw) => {
      const decision = normalisePath(raw)
      if (decision.t === 'refused' || raw === '*') return
      const servlet = decision.path.split('/').map((s) => decodeURIComponent(s.split(';')[0] ?? '').replaceAll('%', '%25'))
      expect(servlet.join('/')).toBe(decision.matched.replaceAll('%25', '%').replaceAll('%', '%25'))
      const resolved = new URL(decision.path, 'http://h').pathname
      expect(resolved.split('/')).toHaveLength(decision.path.split('/').length)
      const inner = decision.matched.split('/').slice(1, -1)
      expect(inner.some((s) => s === '' || s === '.' || s === '..')).toBe(false)
    }), { numRuns: 3000 })
  })

  test('a policy written in any spelling meets the request in any other', () => {
    const spellings = ['/café/a b', '/caf%C3%A9/a%20b', '/caf%c3%a9//a%20b', '/x/../café/./a b']
    const matched = spellings.map((s) => patternPath(s.replaceAll(' ', '%20')))
    expect(new Set(matched)).toEqual(new Set(['/café/a b']))
    expect(patternPath('/a%2fb')).toBeUndefined()
  })

  test('a prefix ends at a path element', () => {
    expect(isUnder('/foo', '/foo/')).toBe(true)
    expect(isUnder('/foo/bar', '/foo')).toBe(true)
    expect(isUnder('/foobar', '/foo')).toBe(false)
    expect(isUnder('/foobar', '/foo/')).toBe(false)
    expect(isUnder('/', '/')).toBe(true)
    expect(isUnder('*', '/')).toBe(false)
  })
})
