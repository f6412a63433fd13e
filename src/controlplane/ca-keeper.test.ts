// What keeps the authority's gifts new, under a clock that the test moves: files, serving certificate, rotation, and what fails.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Clock } from '../core/clock.ts'
import { silentLogger } from '../core/log.ts'
import { Authority, type SignAnswer, type SignRequest } from '../pki/authority.ts'
import { readCrls } from '../pki/crl.ts'
import { until } from '../xds/testing.ts'
import { CaKeeper, trustFiles, withinTtl } from './ca-keeper.ts'
import type { ServingCertificate } from './grpc-port.ts'

/** Time stands still until it is moved; what is due then is called. */
class MovedClock implements Clock {
  #now = Date.parse('2026-01-01T00:00:00Z')
  #due: { readonly atMs: number; readonly call: () => void }[] = []

  nowMs(): number {
    return this.#now
  }

  monotonicMs(): number {
    return this.#now
  }

  after(ms: number, call: () => void): () => void {
    const entry = { atMs: this.#now + ms, call }
    this.#due.push(entry)
    return () => void (this.#due = this.#due.filter((each) => each !== entry))
  }

  move(ms: number): void {
    this.#now += ms
    const due = this.#due.filter(({ atMs }) => atMs <= this.#now)
    this.#due = this.#due.filter(({ atMs }) => atMs > this.#now)
    for (const { call } of due) call()
  }

  get waiting(): number {
    return this.#due.length
  }
}

const hour = 3_600_000
let base = ''
let clock: MovedClock
let authority: Authority
let keeper: CaKeeper
let served: ServingCertificate[]
const file = (name: string): string => join(base, name)

beforeEach(async () => {
  base = mkdtempSync(join(tmpdir(), 'sidestep-keeper-'))
  clock = new MovedClock()
  served = []
  authority = await Authority.open({ trustDomain: 'cluster.local', directory: file('ca'), maySign: () => true, logger: silentLogger, now: () => clock.nowMs() })
  keeper = new CaKeeper({
    authority, names: { dns: ['localhost'], ips: ['127.0.0.1'] }, servingTtlMs: 2 * hour, trust: trustFiles(file('roots.pem'), file('crl.pem')), logger: silentLogger, clock,
  })
  keeper.onServing((certificate) => served.push(certificate))
  await keeper.start()
})
afterEach(() => {
  keeper.close()
  rmSync(base, { recursive: true })
})

const roots = (): number => readFileSync(file('roots.pem'), 'utf8').split('BEGIN CERTIFICATE').length - 1
const crlTimes = (): number[] => readCrls(readFileSync(file('crl.pem'))).map(({ thisUpdateMs }) => thisUpdateMs)

test('the serving certificate is renewed at half of its life, the list of revocations four times a day', async () => {
  expect(served).toHaveLength(1)
  const [before] = crlTimes()
  clock.move(hour - 1000)
  expect(served).toHaveLength(1)
  clock.move(2000)
  await until(() => served.length === 2, 'renewed')
  expect(served[1]?.chainPem).not.toBe(served[0]?.chainPem)
  clock.move(5 * hour)
  await until(() => crlTimes()[0] !== before, 'a new list')
  keeper.close()
  expect(clock.waiting).toBe(0)
})

test('a rotation goes its way alone: announced, signing, and the old root leaves when nothing of it is valid', async () => {
  await keeper.beginRotation(hour)
  expect([roots(), keeper.status().rotation]).toEqual([2, 'announcing'])
  expect(crlTimes()).toHaveLength(2)
  clock.move(hour)
  await until(() => keeper.status().rotation === 'retiring' && served.length >= 2, 'the new root signs, also for us')
  clock.move(40 * hour)
  await until(() => keeper.status().rotation === 'steady' && roots() === 1 && crlTimes().length === 1, 'the old root has left')
})

test('what cannot be written is tried again', async () => {
  await keeper.beginRotation(hour / 4)
  // A directory in the file's place: rename refuses.
  rmSync(file('roots.pem'))
  mkdirSync(file('roots.pem'))
  writeFileSync(join(file('roots.pem'), 'x'), '')
  const before = served.length
  clock.move(hour / 4)
  await until(() => keeper.status().rotation === 'retiring' && clock.waiting > 0, 'the step was taken')
  await new Promise((resolve) => setTimeout(resolve, 100))
  expect(served).toHaveLength(before)
  rmSync(file('roots.pem'), { recursive: true })
  clock.move(5_000)
  await until(() => served.length > before, 'all was told')
  expect(roots()).toBe(2)
})

test('a serial is revoked under whichever root it is', async () => {
  await keeper.beginRotation(hour)
  await keeper.revoke('0x0ABC')
  expect(readCrls(readFileSync(file('crl.pem'))).map((crl) => crl.revoked.has('0abc'))).toEqual([true, true])
  expect(keeper.status().revoked).toBe(1)
})

test('lifetimes are kept within their bounds', async () => {
  const asked: number[] = []
  const inner = { sign: async ({ ttlSeconds }: SignRequest): Promise<SignAnswer> => {
    asked.push(ttlSeconds)
    return { t: 'refused', reason: 'notAllowed', message: '' }
  } }
  const bounded = withinTtl(inner, 60, 100)
  for (const ttlSeconds of [0, 1, 100, 101, Infinity, -1, NaN]) await bounded.sign({ csrPem: '', ttlSeconds, caller: { node: 'a' } })
  // What is no lifetime at all is the authority's to refuse.
  expect(asked).toEqual([60, 1, 100, -1, NaN])
})
