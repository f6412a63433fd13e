import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compilePeerAuthentication, peerAuthenticationVerdict, type MtlsMode,
  type PeerAuthentication } from './peer-authentication.ts'

const policy = (name: string, mode: MtlsMode, parts: Partial<PeerAuthentication> = {}): PeerAuthentication => ({
  name, namespace: 'shop', selector: {}, mode, portModes: new Map(), createdMs: 0, ...parts,
})
const web = { namespace: 'shop', labels: { app: 'web', tier: 'front' } }
const compile = (...policies: PeerAuthentication[]) => compilePeerAuthentication(policies, web, ['root'])
const plaintext = (port: number, ...policies: PeerAuthentication[]) => peerAuthenticationVerdict(compile(...policies),
  { hasIdentity: false, port })
const mesh = (mode: MtlsMode): PeerAuthentication => policy('mesh', mode, { namespace: 'root' })

describe('precedence', () => {
  test('without policies plaintext is permitted', () => {
    expect(plaintext(80)).toEqual({ allowed: true, because: 'plaintextPermitted', policy: undefined })
  })

  test('workload before namespace before mesh', () => {
    const selected = policy('web', 'disable', { selector: { app: 'web' } })
    expect(plaintext(80, mesh('strict'))).toEqual({ allowed: false, because: 'strictMtls', policy: 'root/mesh' })
    expect(plaintext(80, mesh('strict'), policy('ns', 'permissive'))).toMatchObject({ allowed: true, policy: 'shop/ns' })
    expect(plaintext(80, selected, mesh('permissive'), policy('ns', 'strict'))).toEqual({ allowed: true, because: 'mtlsDisabled',
      policy: 'shop/web' })
  })

  test('UNSET takes what is around it', () => {
    expect(plaintext(80, mesh('strict'), policy('ns', 'unset'),
      policy('web', 'unset', { selector: { app: 'web' } }))).toMatchObject({ policy: 'root/mesh' })
  })

  test('the oldest of a level counts, then the name', () => {
    expect(compile(policy('b', 'strict', { createdMs: 2 }), policy('a', 'disable', { createdMs: 3 })).policy).toBe('shop/b')
    expect(compile(policy('b', 'strict'), policy('a', 'disable')).policy).toBe('shop/a')
  })

  test('other namespaces, other labels and selectors in the root namespace do not count', () => {
    expect(plaintext(80, policy('x', 'strict', { namespace: 'other' }), policy('y', 'strict', { selector: { app: 'db' } }),
      policy('z', 'strict', { namespace: 'root', selector: { app: 'web' } }))).toMatchObject({ allowed: true, policy: undefined })
  })

  test('ports of a selector policy, and only of one', () => {
    const portModes = new Map<number, MtlsMode>([[8080, 'disable'], [9090, 'unset']])
    const selected = policy('web', 'strict', { selector: { app: 'web' }, portModes })
    expect([8080, 9090, 1].map((port) => plaintext(port, selected).allowed)).toEqual([true, false, false])
    expect(plaintext(8080, policy('ns', 'strict', { portModes })).allowed).toBe(false)
  })
})

test('an identity is always enough, and plaintext is refused exactly where the plain reading says STRICT', () => {
  const mode = fc.constantFrom<MtlsMode>('unset', 'disable', 'permissive', 'strict')
  const anyPolicy = fc.record({
    name: fc.constantFrom('a', 'b', 'c'), namespace: fc.constantFrom('root', 'shop', 'other'), mode, createdMs: fc.nat(3),
    selector: fc.constantFrom<Record<string, string>[]>({}, { app: 'web' }, { app: 'db' }, { app: 'web', tier: 'front' }),
    portModes: fc.array(fc.tuple(fc.constantFrom(80, 81), mode), { maxLength: 2 }).map((list) => new Map(list)),
  })
  fc.assert(fc.property(fc.uniqueArray(anyPolicy, { maxLength: 8, selector: (p) => `${p.namespace}/${p.name}` }),
    fc.constantFrom(80, 81, 82), (policies, port) => {
    const oldest = (list: readonly PeerAuthentication[]): PeerAuthentication | undefined =>
      list.toSorted((a, b) => a.createdMs - b.createdMs || (a.name < b.name ? -1 : 1))[0]
    const isEmpty = (p: PeerAuthentication): boolean => Object.keys(p.selector).length === 0
    const selected = oldest(policies.filter((p) => p.namespace === 'shop' && !isEmpty(p) && p.selector['app'] === 'web'))
    const chain = [selected?.portModes.get(port), selected?.mode,
      oldest(policies.filter((p) => p.namespace === 'shop' && isEmpty(p)))?.mode,
      oldest(policies.filter((p) => p.namespace === 'root' && isEmpty(p)))?.mode]
    const expected = chain.find((m) => m !== undefined && m !== 'unset') ?? 'permissive'
    const compiled = compile(...policies)
    expect(peerAuthenticationVerdict(compiled, { hasIdentity: false, port }).allowed).toBe(expected !== 'strict')
    expect(peerAuthenticationVerdict(compiled, { hasIdentity: true, port }).allowed).toBe(true)
  }))
})
