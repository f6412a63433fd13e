import { mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { CniServer, cniAnswerSchema, type CniAnswer, type CniHandler, type CniRequest, type CniServerOptions } from './cni-server.ts'

const request: CniRequest = { v: 1, command: 'ADD', namespace: 'shop', name: 'web', uid: 'u', containerId: 'c', netns: '/n', ips: ['10.0.0.1'] }
const yes: CniAnswer = { ok: true, captured: true }

let directory: string
let path: string
const servers: CniServer[] = []

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'cnis-'))
  path = join(directory, 'deeper', 'cni.sock')
})
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close()
  await rm(directory, { recursive: true })
})

async function serve(handle: CniHandler, options: Partial<CniServerOptions> = {}): Promise<CniServer> {
  const server = new CniServer({ path, handle, logger: silentLogger, ...options })
  servers.push(server)
  await server.listen()
  return server
}

/** All that is answered to `text`, up to the end. */
function ask(text: string | Buffer): Promise<string> {
  return new Promise((resolve) => {
    let received = ''
    const socket = connect(path, () => socket.write(text))
    socket.on('data', (chunk) => (received += String(chunk)))
    socket.on('error', () => {
      // 'close' follows.
    })
    socket.on('close', () => resolve(received))
  })
}

const line = (value: unknown): string => `${JSON.stringify(value)}\n`

test('one line is answered by one line, and then it is over', async () => {
  await serve(async ({ name }) => ({ ok: true, captured: name === 'web' }))
  expect(await ask(line(request))).toBe(line(yes))
  expect(await ask(line({ ...request, name: 'other' }))).toBe(line({ ok: true, captured: false }))
})

test('only the owner may talk to it, and it leaves nothing else in its directory', async () => {
  await serve(async () => yes)
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  expect(await readdir(join(directory, 'deeper'))).toEqual(['cni.sock'])
})

test('what is not understood is refused, with a sentence', async () => {
  await serve(async () => yes)
  for (const wrong of ['{}', 'x', line({ ...request, v: 2 }), line({ ...request, ips: ['10.0.0.1/24'] }), line({ ...request, more: 1 }), `"${'x'.repeat(100_000)}"`]) {
    const answer = cniAnswerSchema.parse(JSON.parse(await ask(`${wrong}\n`)))
    expect(answer).toEqual({ ok: false, because: expect.stringMatching(/\w/) })
  }
})

test('a handler that fails, or says too much, is a refusal of one line', async () => {
  await serve(() => Promise.reject(new Error('a\nb')))
  expect(JSON.parse(await ask(line(request)))).toEqual({ ok: false, because: 'a b' })
  await serve(async () => ({ ok: false, because: 'x'.repeat(100_000), failureMode: 'open' }))
  const answer = cniAnswerSchema.parse(JSON.parse(await ask(line(request))))
  expect(answer).toMatchObject({ ok: false, failureMode: 'open' })
})

test('who says nothing, or asks twice, is cut off', async () => {
  await serve(async () => yes, { requestTimeoutMs: 50 })
  expect(await ask('')).toBe('')
  expect(await ask('{"v":1')).toBe('')
  await serve(() => new Promise(() => {}))
  expect(await ask(line(request) + line(request))).toBe('')
})

test('the agent has to decide in time, and hears when nobody waits any more', async () => {
  const reasons: string[] = []
  const waits: CniHandler = (_, signal) => new Promise((resolve) => signal.addEventListener('abort', () => {
    reasons.push('aborted')
    resolve(yes)
  }))
  await serve(waits, { answerTimeoutMs: 50 })
  expect(JSON.parse(await ask(line(request)))).toMatchObject({ ok: false, because: expect.stringContaining('50 ms') })
  await serve(waits)
  await new Promise<void>((resolve) => {
    const socket = connect(path, () => socket.write(line(request), () => setTimeout(() => socket.destroy(), 20)))
    socket.on('close', () => resolve())
  })
  await expect.poll(() => reasons.length, { timeout: 10_000 }).toBe(2)
})

test('a newer agent takes the path at one stroke, and who asked the older one still hears from it', async () => {
  let decide: (answer: CniAnswer) => void = () => {}
  const older = await serve(() => new Promise((resolve) => (decide = resolve)))
  const asked = ask(line(request))
  await new Promise((resolve) => setTimeout(resolve, 50))
  const newer = await serve(async () => ({ ok: true, captured: false }))
  expect(await ask(line(request))).toBe(line({ ok: true, captured: false }))
  expect([await older.isOwner(), await newer.isOwner()]).toEqual([false, true])
  decide(yes)
  expect(await asked).toBe(line(yes))
})

test('an agent that goes leaves the path to whoever has it', async () => {
  const older = await serve(async () => yes)
  await serve(async () => ({ ok: true, captured: false }))
  await older.close()
  expect(await ask(line(request))).toBe(line({ ok: true, captured: false }))
})

test('an agent that stays takes the path back from one that died', async () => {
  const older = await serve(async () => yes, { watchMs: 10 })
  const newer = await serve(async () => ({ ok: true, captured: false }))
  await newer.close()
  await expect.poll(() => older.isOwner(), { timeout: 10_000 }).toBe(true)
  expect(await ask(line(request))).toBe(line(yes))
  // And from somebody who removed it.
  await rm(path)
  await expect.poll(() => older.isOwner(), { timeout: 10_000 }).toBe(true)
  expect(await ask(line(request))).toBe(line(yes))
})

test('a link in its place is replaced, not followed', async () => {
  await serve(async () => yes)
  await rm(path)
  await symlink(join(directory, 'elsewhere'), path)
  await serve(async () => yes)
  expect((await stat(path)).isSocket()).toBe(true)
  expect(await readdir(directory)).toEqual(['deeper'])
})

test('no input ends it', async () => {
  await serve(async () => yes, { requestTimeoutMs: 20 })
  await fc.assert(fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes)), fc.json().map((text) => Buffer.from(`${text}\n`))), async (bytes) => {
    const answer = await ask(bytes)
    if (answer !== '') cniAnswerSchema.parse(JSON.parse(answer))
  }), { numRuns: 60 })
  expect(await ask(line(request))).toBe(line(yes))
})
