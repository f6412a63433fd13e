// The addon built with AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, exercised in all it does. Any
// report fails the test, and so does a build in which the sanitizers are not really there.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildDirectory } from '../../src/kernel/native.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { TestNetns } from './test-netns.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const directory = join(buildDirectory, 'sanitize')
const addon = join(directory, 'sidestep.node')
let place: TestNetns

/** Changes when a source, the build's description or the headers' versions do. */
function inputsHash(): string {
  const hash = createHash('sha256')
  const sources = join(root, 'native/src')
  const files = ['CMakeLists.txt', 'package-lock.json', ...readdirSync(sources).sort().map((name) => join('native/src', name))]
  for (const file of files) hash.update(file).update(readFileSync(join(root, file)))
  return hash.digest('hex')
}

function build(): void {
  const stamp = join(directory, 'inputs')
  const wanted = inputsHash()
  if (existsSync(addon) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return
  mkdirSync(directory, { recursive: true })
  // Only the addon: the programs and the sandbox are the ordinary build's.
  execFileSync('cmake', ['-S', root, '-B', directory, '-G', 'Ninja', '-DSIDESTEP_SANITIZE=ON', '-DCMAKE_BUILD_TYPE=Debug'], { stdio: 'pipe' })
  execFileSync('cmake', ['--build', directory, '--target', 'sidestep'], { stdio: 'pipe' })
  writeFileSync(stamp, wanted)
}

const library = (name: string): string => execFileSync('gcc', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()

beforeAll(async () => {
  build()
  place = await TestNetns.make()
}, 180_000)
afterAll(() => place[Symbol.asyncDispose]())

/** Runs a program with the sanitizers' runtime; `NAME` in the options is theirs. */
async function sanitized(command: readonly string[], options: { readonly leaks: boolean }): Promise<{ status: number | null; stderr: string; last: unknown }> {
  await using child = new LineProcess(['env', `LD_PRELOAD=${library('libasan.so')} ${library('libubsan.so')}`, ...command], {
    env: {
      SIDESTEP_NATIVE: addon,
      ASAN_OPTIONS: `detect_leaks=${options.leaks ? 1 : 0}:malloc_context_size=40:fast_unwind_on_malloc=0:exitcode=77`,
      LSAN_OPTIONS: 'report_objects=0:print_suppressions=0',
      UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1:exitcode=78',
    },
  })
  const timer = setTimeout(() => void child.stop(), 100_000)
  const { status, stderr } = await child.ended
  clearTimeout(timer)
  return { status, stderr, last: child.lines.at(-1) }
}

function reports(stderr: string): string[] {
  return stderr.split('\n').filter((text) => /ERROR: AddressSanitizer|runtime error:/.test(text))
}

/**
 * The reports of leaks whose memory our code asked for; Node has some of its own at exit. A promise that is still open when
 * its environment ends is among those: Node-API frees its eight bytes only when it is settled, which is then refused.
 */
function ownLeaks(stderr: string): string[] {
  return stderr.split('\n\n').filter((report) => /leak of \d+ byte/.test(report) && report.includes('sidestep.node') && !report.includes('napi_create_promise'))
}

/** Does wrong what its argument says. Its name makes its leaks count as ours. */
const culprit = `
#include <limits.h>
#include <stdlib.h>
int main(int count, char **argument) {
  volatile char *memory = malloc(8);
  volatile int most = INT_MAX;
  if (count < 2) return 1;
  if (argument[1][0] == 'u') most += count;
  if (argument[1][0] == 'o') memory[count + 6] = 1;
  if (argument[1][0] == 'l') memory = NULL; else free((void *)memory);
  return 0;
}`

test('the sanitizers are in the build, and what they report fails a run', async () => {
  const symbols = (path: string): string => execFileSync('nm', ['--dynamic', '--undefined-only', path], { encoding: 'utf8' })
  expect(symbols(addon)).toContain('__asan_report_load')
  expect(symbols(addon)).toContain('__ubsan_handle')
  expect(symbols(join(buildDirectory, 'Release/sidestep.node'))).not.toContain('__asan')

  const program = join(directory, 'culprit-sidestep.node')
  execFileSync('gcc', ['-g', '-O0', '-fsanitize=address,undefined', '-x', 'c', '-o', program, '-'], { input: culprit })
  const run = (what: string): ReturnType<typeof sanitized> => sanitized([program, what], { leaks: true })
  expect(await run('nothing')).toMatchObject({ status: 0, stderr: '' })
  expect(reports((await run('overflow')).stderr)).toHaveLength(1)
  expect(reports((await run('undefined')).stderr)).toHaveLength(1)
  expect(ownLeaks((await run('leak')).stderr)).toHaveLength(1)
})

test('all that the addon does, without a report', async () => {
  const { status, stderr, last } = await sanitized([process.execPath, join(import.meta.dirname, 'exercise.ts'), place.path], { leaks: true })
  expect(reports(stderr), stderr).toEqual([])
  expect(ownLeaks(stderr)).toEqual([])
  // 77 is how leaks end a process, here those of Node itself.
  expect([0, 77], stderr).toContain(status)
  expect(last, stderr).toEqual({ done: true, library: addon })
}, 120_000)

test('workers terminated inside its calls, without a report', async () => {
  const { status, stderr, last } = await sanitized([process.execPath, join(import.meta.dirname, 'lives/terminated.ts'), place.path, '4'], { leaks: true })
  expect(reports(stderr), stderr).toEqual([])
  expect(ownLeaks(stderr)).toEqual([])
  expect([0, 77], stderr).toContain(status)
  const { before, after } = last as Record<'before' | 'after', unknown>
  expect(after, stderr).toEqual(before)
}, 120_000)
