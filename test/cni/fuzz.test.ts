// The CNI plugin built with AddressSanitizer and UndefinedBehaviorSanitizer, given whatever may come: it must end with an answer,
// never with a report, and agree with Node about what is JSON.
import { execFile } from 'node:child_process'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { buildDirectory } from '../../src/kernel/native.ts'
import { callPlugin, Place, previousResult } from './plugin.ts'

const sources = join(import.meta.dirname, '../../native/cni')
const directory = join(buildDirectory, 'cni-fuzz')
const harness = join(directory, 'fuzz')
const sanitizedPlugin = join(directory, 'sidestep-cni')
const flags = ['-std=c++20', '-Wall', '-Wextra', '-Werror', '-g', '-O1', '-fno-exceptions', '-fno-rtti', '-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer']

/** Of built files the oldest counts, of sources the newest. */
async function timeOf(paths: readonly string[], of: (...ms: number[]) => number = Math.max): Promise<number> {
  return of(...await Promise.all(paths.map(async (path) => (await stat(path)).mtimeMs)))
}

const run = promisify(execFile)

beforeAll(async () => {
  await mkdir(directory, { recursive: true })
  const files = (await readdir(sources)).map((name) => join(sources, name))
  const own = join(import.meta.dirname, 'fuzz.cc')
  if (await timeOf([harness, sanitizedPlugin], Math.min).catch(() => 0) > await timeOf([...files, own, import.meta.filename])) return
  const objectOf = (source: string): string => join(directory, `${basename(source)}.o`)
  const units = [...files.filter((name) => name.endsWith('.cc')), own]
  await Promise.all(units.map((source) => run('g++', [...flags, '-c', source, '-o', objectOf(source)])))
  const link = (target: string, without: string): Promise<unknown> =>
    run('g++', [...flags, ...units.filter((source) => basename(source) !== without).map(objectOf), '-o', target])
  await Promise.all([link(harness, 'main.cc'), link(sanitizedPlugin, 'fuzz.cc')])
}, 300_000)

interface Made {
  readonly isJson: boolean
  readonly isCall: boolean
  readonly answer: number
  readonly isPod: boolean
}

/** What the plugin's readers made of each input. Fails with the sanitizers' report. */
function feed(inputs: readonly Buffer[]): Promise<Made[]> {
  const blocks = inputs.flatMap((input) => {
    const length = Buffer.alloc(4)
    length.writeUInt32LE(input.length)
    return [length, input]
  })
  return new Promise((resolve, reject) => {
    const child = execFile(harness, { maxBuffer: 64 << 20 }, (error, stdout, stderr) => {
      if (error) return reject(new Error(stderr.slice(0, 4000)))
      const lines = stdout.trimEnd().split('\n')
      if (lines.length !== inputs.length) return reject(new Error(`${lines.length} answers to ${inputs.length} inputs`))
      const broken = lines.findIndex((line) => !line.endsWith(' whole'))
      if (broken >= 0) return reject(new Error(`what it writes is no JSON, for ${JSON.stringify(inputs[broken]?.toString('latin1'))}`))
      resolve(lines.map((line) => {
        const [json, call, answer, , pod] = line.split(' ')
        return { isJson: json === '1', isCall: call === '1', answer: Number(answer), isPod: pod === '1' }
      }))
    })
    child.stdin?.on('error', () => {
      // It ended early; its exit says why.
    })
    child.stdin?.end(Buffer.concat(blocks))
  })
}

const config = JSON.stringify({ cniVersion: '1.0.0', name: 'k8s', type: 'sidestep-cni', timeoutMs: 5, exempt: ['a', 'b'], socket: '/x', namespaces: '/y', prevResult: previousResult })
const seeds = [
  config, '{"ok":true,"captured":true}', '{"ok":false,"because":"\\ud83d\\ude00 no","failureMode":"open"}', '{"v":1,"namespaces":{"shop":"closed","dev":"open"}}',
  'IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=1', '[1,-0.5e+10,"\\u00e9\\n",null,true,[[]],{}]',
].map((text) => Buffer.from(text))

/** Some bytes changed, cut, doubled or put in. */
const mutated = fc.tuple(
  fc.constantFrom(...seeds),
  fc.array(fc.tuple(fc.nat(), fc.constantFrom('set', 'cut', 'put', 'double'), fc.oneof(fc.nat(255), fc.constantFrom(...Buffer.from('{}[]",:\\0-eu;=')))), { maxLength: 6 }),
).map(([seed, changes]) => changes.reduce((bytes, [where, what, byte]) => {
  const at = bytes.length === 0 ? 0 : where % bytes.length
  const [head, tail] = [bytes.subarray(0, at), bytes.subarray(at)]
  if (what === 'set') return Buffer.concat([head, Buffer.of(byte), tail.subarray(1)])
  if (what === 'cut') return Buffer.concat([head, tail.subarray(1 + (byte % 20))])
  if (what === 'put') return Buffer.concat([head, Buffer.of(byte), tail])
  return Buffer.concat([bytes, head])
}, seed))

function isStrictJson(bytes: Buffer): boolean {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

test('no input is too much for its readers, and what they take for JSON is JSON', async () => {
  const inputs = [...fc.sample(mutated, 15_000), ...fc.sample(fc.uint8Array({ maxLength: 200 }), 3000).map((bytes) => Buffer.from(bytes))]
  const made = await feed(inputs)
  const wrong = inputs.filter((input, i) => made[i]?.isJson === true && !isStrictJson(input))
  expect(wrong.map(String)).toEqual([])
  // Something of everything came through, or the inputs tell nothing.
  expect(made.filter(({ isCall }) => isCall).length).toBeGreaterThan(100)
  expect(made.filter(({ isPod }) => isPod).length).toBeGreaterThan(50)
  expect(new Set(made.map(({ answer }) => answer)).size).toBe(3)
  expect(made.filter(({ isJson }) => !isJson).length).toBeGreaterThan(1000)
})

test('every JSON value without twins is read', async () => {
  const depth = (value: unknown): number => (typeof value === 'object' && value !== null ? 1 + Math.max(0, ...Object.values(value).map(depth)) : 0)
  const values = fc.sample(fc.jsonValue({ maxDepth: 6 }), 5000).filter((value) => depth(value) < 60)
  const spelled = values.map((value, i) => Buffer.from(JSON.stringify(value, null, i % 3)))
  expect((await feed(spelled)).filter(({ isJson }) => !isJson)).toEqual([])
})

test('what has no end is bounded', async () => {
  const inputs = ['['.repeat(1 << 20), '{"a":'.repeat(200_000), `[${'0,'.repeat(500_000)}0]`, `"${'\\u0000'.repeat(170_000)}"`, `{${Array.from({ length: 90_000 }, (_, i) => `"${i}":0`).join()}}`]
  expect((await feed(inputs.map((text) => Buffer.from(text)))).map(({ isJson }) => isJson)).toEqual([false, false, false, true, true])
})

test('the whole plugin ends with an answer, whatever stands on its input and in its environment', async () => {
  await using place = await Place.make()
  await place.serve(async () => ({ ok: true, captured: true }))
  const command = fc.constantFrom('ADD', 'ADD', 'CHECK', 'DEL', 'VERSION', 'GC', 'STATUS', 'x')
  const said = fc.oneof(mutated.map((bytes) => bytes.toString('latin1').replaceAll('\0', '')), fc.constant('K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web'))
  for (const [CNI_COMMAND, CNI_ARGS, input] of fc.sample(fc.tuple(command, said, mutated), 120)) {
    const text = Buffer.from(input.toString('latin1').replace('"/x"', JSON.stringify(place.socket)).replace('"/y"', JSON.stringify(place.namespaces)), 'latin1')
    const environment = { CNI_COMMAND, CNI_ARGS, CNI_CONTAINERID: CNI_ARGS, CNI_NETNS: CNI_ARGS, CNI_IFNAME: 'eth0' }
    const { code, signal, stdout, stderr } = await callPlugin(environment, text, sanitizedPlugin)
    expect({ code, signal, stderr: /Sanitizer|runtime error/.test(stderr) ? stderr : '' }).toEqual({ code: expect.toSatisfy((value) => value === 0 || value === 1), signal: null, stderr: '' })
    if (stdout !== '') JSON.parse(stdout)
    if (code === 1) expect(JSON.parse(stdout)).toMatchObject({ code: expect.any(Number), msg: expect.any(String) })
    if (CNI_COMMAND === 'DEL') expect(code).toBe(0)
  }
}, 120_000)
