import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DirectoryWatcher, readDirectory, type DirectoryReading } from './directory.ts'

const namespace = (name: string): string => `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name} }\n`

let directory = ''
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), 'sidestep-dir-'))))
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function found(reading: DirectoryReading | undefined): string[] {
  return [...(reading?.files.values() ?? [])].flatMap((file) => file.objects.map((object) => object.metadata.name)).sort()
}

async function until(check: () => boolean): Promise<void> {
  for (let i = 0; i < 300 && !check(); i++) await sleep(10)
  expect(check()).toBe(true)
}

describe('a directory', () => {
  test('its YAML and JSON is read; hidden, other and special files are not', async () => {
    writeFileSync(join(directory, 'a.yaml'), namespace('a'))
    writeFileSync(join(directory, 'b.json'), JSON.stringify({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'b' } }))
    writeFileSync(join(directory, '.c.yaml'), namespace('c'))
    writeFileSync(join(directory, 'd.txt'), namespace('d'))
    mkdirSync(join(directory, 'e.yaml'))
    execFileSync('mkfifo', [join(directory, 'f.yaml')])
    expect(found(await readDirectory(directory))).toEqual(['a', 'b'])
    expect(found(await readDirectory(join(directory, 'a.yaml')))).toEqual(['a'])
  })

  test('a file that is too large is a problem, not a reason to read it', async () => {
    writeFileSync(join(directory, 'a.yaml'), `${namespace('a')}# ${'x'.repeat(1 << 20)}\n`)
    const { files } = await readDirectory(directory)
    expect(files.get('a.yaml')?.problems[0]?.reason).toContain('larger than')
  })

  test('that is not there cannot be watched', async () => {
    await expect(DirectoryWatcher.start(join(directory, 'x'), () => {})).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })
})

describe('watching', () => {
  test('tells changes after a moment of quiet, many as one', async () => {
    const readings: DirectoryReading[] = []
    const watcher = await DirectoryWatcher.start(directory, (reading) => readings.push(reading))
    for (let i = 0; i < 20; i++) writeFileSync(join(directory, `n${i}.yaml`), namespace(`n${i}`))
    await until(() => found(readings.at(-1)).length === 20)
    expect(readings.length).toBeLessThan(5)
    rmSync(join(directory, 'n0.yaml'))
    await until(() => found(readings.at(-1)).length === 19)
    watcher.close()
  })

  test('one file survives being replaced', async () => {
    const file = join(directory, 'a.yaml')
    writeFileSync(file, namespace('a'))
    const readings: DirectoryReading[] = []
    const watcher = await DirectoryWatcher.start(file, (reading) => readings.push(reading))
    for (const name of ['b', 'c']) {
      writeFileSync(`${file}.new`, namespace(name))
      execFileSync('mv', [`${file}.new`, file])
      await until(() => found(readings.at(-1))[0] === name)
    }
    watcher.close()
  })

  test('a directory that goes is a problem; when it is back, it is read again', async () => {
    const readings: DirectoryReading[] = []
    writeFileSync(join(directory, 'a.yaml'), namespace('a'))
    const watcher = await DirectoryWatcher.start(directory, (reading) => readings.push(reading))
    rmSync(directory, { recursive: true })
    await until(() => readings.at(-1)?.problem !== undefined)
    mkdirSync(directory)
    writeFileSync(join(directory, 'b.yaml'), namespace('b'))
    await until(() => found(readings.at(-1))[0] === 'b')
    watcher.close()
  })
})
