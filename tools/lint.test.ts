// The lint rules are only as good as their patterns, and a pattern that matches nothing is silent. So: every import
// between two rooms is written into a scratch tree, and what oxlint reports must be what CONTRIBUTING.md forbids.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')
const tree = mkdtempSync(join(tmpdir(), 'sidestep-lint-'))
const rooms = readRooms()

/** The table of CONTRIBUTING.md: room to the rooms it may use. */
function readRooms(): Map<string, readonly string[]> {
  const table = new Map<string, readonly string[]>()
  for (const [, room = '', uses = ''] of readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8').matchAll(/^\| `(\w+)` \|([\w, ]*)\|/gm)) {
    table.set(room, uses.split(',').map((each) => each.trim()).filter((each) => each !== ''))
  }
  return table
}

function mayUse(from: string, to: string): boolean {
  const uses = rooms.get(from) ?? []
  return uses.includes('all') || uses.includes(to)
}

function put(path: string, text: string): void {
  mkdirSync(dirname(join(tree, path)), { recursive: true })
  writeFileSync(join(tree, path), text)
}

interface Finding {
  readonly filename: string
  readonly code: string
}

/** What oxlint finds in the scratch tree, as `file rule`. */
function lint(): Set<string> {
  const oxlint = join(root, 'node_modules/.bin/oxlint')
  const run = spawnSync(oxlint, ['-f', 'json'], { cwd: tree, encoding: 'utf8', maxBuffer: 1 << 26 })
  expect(run.stderr).toBe('')
  const { diagnostics } = JSON.parse(run.stdout) as { diagnostics: Finding[] }
  return new Set(diagnostics.map(({ filename, code }) => `${filename} ${code.replace(/.*\((.*)\)/, '$1')}`))
}

const restricted = 'no-restricted-imports'

const singles: readonly (readonly [path: string, text: string, rule: string | undefined])[] = [
  ['src/ztunnel/deep/er/native.ts', `export * from '../../../../native/native.d.ts'`, restricted],
  ['src/ztunnel/addon.ts', `export const addon = await import('../../build/Release/sidestep.node')`, restricted],
  ['src/kernel/native.ts', `export type * from '../../native/native.d.ts'`, undefined],
  ['src/local/deep/ztunnel.ts', `export * from '../../ztunnel/inbound.ts'`, restricted],
  ['src/local/type.ts', `import type { X } from '../ztunnel/inbound.ts'\nexport type Y = X`, restricted],
  ['src/local/dynamic.ts', `export const x = await import('../ztunnel/inbound.ts')`, restricted],
  ['src/core/package.ts', `export { z } from 'zod'`, restricted],
  ['src/core/node.ts', `export { isIP } from 'node:net'`, undefined],
  ['src/core/node-part.ts', `export { readFile } from 'node:fs/promises'`, undefined],
  ['src/core/own/deep.ts', `export * from '../node.ts'`, undefined],
  ['src/model/io.ts', `export { readFile } from 'node:fs/promises'`, restricted],
  ['src/model/pure.ts', `export { isIP } from 'node:util'`, undefined],
  ['src/ztunnel/log.ts', `export { pino } from 'pino'`, restricted],
  ['src/bin/log.ts', `export { pino } from 'pino'`, undefined],
  ['src/cli/command.ts', `export { Command } from 'commander'`, undefined],
  ['src/kernel/helper.ts', `export * from '../../test/helpers/world.ts'`, restricted],
  ['src/core/any.ts', 'export const x: any = 1', 'no-explicit-any'],
  ['src/core/catch.ts', `try { JSON.parse('1') } catch {}`, 'no-empty'],
  ['src/core/why.ts', `try { JSON.parse('1') } catch { /* nothing to lose */ }`, undefined],
  ['src/core/console.ts', 'console.log(1)', 'no-console'],
  ['src/core/env.ts', 'export const x = process.env.X', 'no-process-env'],
  ['src/core/marker.ts', `// TO${'DO'} later\nexport const x = 1`, 'no-warning-comments'],
  ['src/core/a.ts', `import { b } from './b.ts'\nexport const a = (): unknown => b`, 'no-cycle'],
  ['src/core/b.ts', `import { a } from './a.ts'\nexport const b = (): unknown => a`, 'no-cycle'],
]

let found: Set<string>

beforeAll(() => {
  copyFileSync(join(root, '.oxlintrc.json'), join(tree, '.oxlintrc.json'))
  for (const from of rooms.keys()) {
    for (const to of rooms.keys()) put(`src/${from}/to-${to}.ts`, `export * from '../${to}/thing.ts'\n`)
  }
  for (const [path, text] of singles) put(path, `${text}\n`)
  found = lint()
})

afterAll(() => rmSync(tree, { recursive: true }))

test('the table names every room that there is', () => {
  const there = readdirSync(join(root, 'src'), { withFileTypes: true }).filter((entry) => entry.isDirectory())
  expect(there.map((entry) => entry.name).filter((name) => !rooms.has(name))).toEqual([])
  expect(rooms.size).toBeGreaterThanOrEqual(16)
})

describe('room arrows', () => {
  const linted = [...rooms.keys()].filter((room) => room !== 'proto')
  test.each(linted)('%s imports what the table allows and nothing else', (from) => {
    const others = [...rooms.keys()].filter((to) => to !== from)
    const refused = others.filter((to) => found.has(`src/${from}/to-${to}.ts ${restricted}`))
    expect(refused).toEqual(others.filter((to) => !mayUse(from, to)))
  })
})

test.each(singles)('%s', (path, _, rule) => {
  const rules = [...found].filter((each) => each.startsWith(`${path} `)).map((each) => each.slice(path.length + 1))
  expect(rules).toEqual(rule === undefined ? [] : [rule])
})
