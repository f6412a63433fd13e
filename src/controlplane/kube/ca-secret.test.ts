// One certificate authority in a Secret, shared by processes that know nothing of each other but the Secret.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { silentLogger } from '../../core/log.ts'
import type { ResourceType } from '../../kube/api.ts'
import type { KubeClient } from '../../kube/client.ts'
import { FakeKubeApi } from '../../kube/testing.ts'
import { Authority } from '../../pki/authority.ts'
import { makeCsr, newKey } from '../../pki/csr.ts'
import { CaSecret, watchCaSecret } from './ca-secret.ts'

const type: ResourceType = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true }
const namespace = 'sidestep-system'
const identity = { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }
let fake: FakeKubeApi
let api: KubeClient
let nowMs = Date.now()
const stops: (() => void)[] = []

beforeEach(async () => {
  nowMs = Date.now()
  fake = await new FakeKubeApi([type]).start()
  api = fake.client()
})
afterEach(async () => {
  for (const stop of stops.splice(0)) stop()
  api.close()
  await fake.stop()
})

async function open(): Promise<{ authority: Authority; secret: CaSecret; follow: () => void }> {
  const secret = new CaSecret({ api, namespace, logger: silentLogger })
  const authority = await Authority.open({ trustDomain: 'cluster.local', directory: secret, maySign: () => true, logger: silentLogger, now: () => nowMs })
  return { authority, secret, follow: () => void stops.push(watchCaSecret(secret, api, namespace, silentLogger, () => authority.reload())) }
}
const stored = (): Record<string, string> => fake.get(type, 'sidestep-ca', namespace)?.['data'] as Record<string, string>
const fileNames = (): string[] => Object.keys(stored()).map((each) => each.replace(/-[0-9a-f]{8}\./, '.')).sort()
async function sign(authority: Authority, ttlSeconds = 60): Promise<string> {
  const answer = await authority.sign({ csrPem: await makeCsr(identity, await newKey()), ttlSeconds, caller: { node: 'a' } })
  if (answer.t === 'refused') throw new Error(answer.message)
  return answer.rootsPem.join('')
}

test('who comes first makes it, whoever else comes at the same time reads it', async () => {
  const all = await Promise.all(Array.from({ length: 4 }, () => open()))
  const [roots, ...others] = all.map(({ authority }) => authority.rootsPem().join(''))
  expect(others).toEqual([roots, roots, roots])
  expect(fileNames()).toEqual(['intermediate.key', 'intermediate.pem', 'root.key', 'root.pem', 'state.json'])
  expect((await open()).authority.rootsPem().join('')).toBe(roots)
})

test('changes of several at once all count, and each follows the others', async () => {
  const [one, two] = [await open(), await open()]
  one.follow()
  two.follow()
  await Promise.all([one.authority.revoke('01'), two.authority.revoke('02'), one.authority.revoke('03'), two.authority.revoke('04'), sign(one.authority), sign(two.authority, 86_400)])
  for (const { authority } of [one, two]) await vi.waitFor(() => expect(authority.revokedSerials.toSorted()).toEqual(['1', '2', '3', '4'].map((each) => expect.stringMatching(new RegExp(`^0*${each}$`)))), 5_000)
  // What the one signs, the other's rotation counts on.
  nowMs += 1000
  await one.authority.beginRotation()
  await vi.waitFor(() => expect(two.authority.rotation).toEqual(one.authority.rotation), 5_000)
  expect(two.authority.rotation).toMatchObject({ t: 'announcing' })
  expect(two.authority.rotation.t === 'announcing' && two.authority.rotation.switchAtMs).toBeGreaterThan(nowMs + 86_000_000)
  await expect(two.authority.beginRotation()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
})

test('a rotation ends with the new keys alone in the Secret, whoever takes which step', async () => {
  const [one, two] = [await open(), await open()]
  await sign(one.authority, 86_400)
  await one.authority.beginRotation(0)
  // Without hearing of it: what it knows is old, and found to be so when it changes something.
  await two.authority.revoke('05')
  expect(two.authority.rotation.t).toBe('announcing')
  expect((await two.authority.continueRotation()).t).toBe('wait')
  expect(two.authority.rotation.t).toBe('retiring')
  expect(fileNames()).toHaveLength(9)
  // One that does not know yet that the signer is another one signs nothing that the rotation does not count on.
  expect(await sign(one.authority, 2 * 86_400)).toContain('BEGIN CERTIFICATE')
  expect(one.authority.rotation.t).toBe('retiring')
  nowMs += 100 * 86_400_000
  await one.authority.continueRotation()
  expect(one.authority.rotation.t).toBe('steady')
  expect(fileNames()).toEqual(['intermediate.key', 'intermediate.pem', 'root.key', 'root.pem', 'state.json'])
  await two.authority.reload()
  expect(two.authority.rootsPem()).toEqual(one.authority.rootsPem())
})

test('one that lacks something is an error that names it, and is not made anew', async () => {
  await open()
  const whole = stored()
  const key = Object.keys(whole).find((each) => each.startsWith('root-') && each.endsWith('.key')) ?? ''
  const without = (name: string): void => void fake.put(type, { metadata: { name: 'sidestep-ca', namespace }, data: Object.fromEntries(Object.entries(whole).filter(([each]) => each !== name)) })
  without(key)
  await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringContaining(`${key} is missing in the Secret ${namespace}/sidestep-ca`) })
  without('state.json')
  await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG', message: expect.stringContaining('lacks state.json') })
  fake.put(type, { metadata: { name: 'sidestep-ca', namespace }, data: { ...whole, 'state.json': 'eA==' } })
  await expect(open()).rejects.toMatchObject({ code: 'BAD_CONFIG' })
})

test('taken away while it is used, it stays in force, and the next change writes it back', async () => {
  const { authority } = await open()
  const roots = authority.rootsPem()
  fake.remove(type, 'sidestep-ca', namespace)
  await authority.reload()
  expect(authority.rootsPem()).toEqual(roots)
  await authority.revoke('07')
  expect(fileNames()).toHaveLength(5)
  expect((await open()).authority.rootsPem()).toEqual(roots)
})

test('of another trust domain it is refused', async () => {
  await open()
  const secret = new CaSecret({ api, namespace, logger: silentLogger })
  await expect(Authority.open({ trustDomain: 'other', directory: secret, maySign: () => true, logger: silentLogger })).rejects.toMatchObject({
    code: 'BAD_CONFIG', message: expect.stringContaining('is of trust domain cluster.local, not other'),
  })
})
