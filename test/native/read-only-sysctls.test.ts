// In a container without `privileged` /proc/sys is read-only. What a pod's namespace needs set is set there all the same, and
// nothing but the namespace that was meant has it.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestNetns } from './test-netns.ts'

const scratch = mkdtempSync(join(tmpdir(), 'sidestep-sysctls-'))
const script = join(scratch, 'set.mjs')
const kernel = fileURLToPath(new URL('../../src/kernel', import.meta.url))
const names = ['ipv4/tcp_fwmark_accept', 'ipv4/fwmark_reflect', 'ipv6/fwmark_reflect', 'ipv4/tcp_tw_reuse']
let place: TestNetns

beforeAll(async () => {
  place = await TestNetns.make()
  writeFileSync(script, `
    import { appendFileSync } from 'node:fs'
    import { native } from '${kernel}/native.ts'
    import { Netns } from '${kernel}/netns.ts'
    let refusal
    try { appendFileSync('/proc/sys/net/ipv4/tcp_fwmark_accept', '1') } catch (error) { refusal = error.code }
    const netns = await Netns.open(process.argv[2])
    await native().setReturnPath(netns.fd, { mark: 20958, table: 20958, priority: 20958, install: process.argv[3] === 'true' })
    console.log(refusal)
  `)
})
afterAll(async () => {
  await place[Symbol.asyncDispose]()
  rmSync(scratch, { recursive: true })
})

const settings = (enter: readonly string[]): string[] =>
  execFileSync('nsenter', [...enter, '--', 'cat', ...names.map((name) => `/proc/sys/net/${name}`)], { encoding: 'utf8' }).trim().split('\n')

function setReturnPath(install: boolean): string {
  const readOnly = 'mount -o bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
  return execFileSync('unshare', ['--mount', 'sh', '-ec', readOnly, 'sh', process.execPath, script, place.path, String(install)], { encoding: 'utf8' }).trim()
}

test('a namespace gets what it needs where /proc/sys is read-only, and loses it again', () => {
  const enter = [`--net=${place.path}`]
  const [before, own] = [settings(enter), settings(['--net=/proc/self/ns/net'])]
  expect(before.slice(0, 3)).toEqual(['0', '0', '0'])
  expect(setReturnPath(true)).toBe('EROFS')
  expect(settings(enter)).toEqual(['1', '1', '1', '1'])
  expect(settings(['--net=/proc/self/ns/net'])).toEqual(own)
  expect(setReturnPath(false)).toBe('EROFS')
  expect(settings(enter)).toEqual(['0', '0', '0', '2'])
})
