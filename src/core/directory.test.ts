import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DirectoryWatcher, readDirectory, type DirectoryReading, type FileFormat } from './directory.ts'

let parsed: string[] = []
const format: FileFormat<string> = {
  matches: /\.(ya?ml|json)$/i,
  maxBytes: 1000,
  parse: (text, name) => {
    parsed.push(name)
    return text.trim()
  },
  unreadable: (_name, reason) => reason,
}

let directory = ''
beforeEach(() => {
  parsed = []
  directory = mkdtempSync(join(tmpdir(), 'sidestep-dir-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function found(reading: DirectoryReading<string> | undefined): string[] {
  return [...(reading?.files.values() ?? [])].sort()
}

async function until(check: () => boolean): Promise<void> {
  for (let i = 0; i < 300 && !check(); i++) await sleep(10)
  expect(check()).toBe(true)
}

describe('a directory', () => {
  test('its YAML and JSON is read; hidden, other and special files are not', async () => {
    writeFileSync(join(directory, 'a.yaml'), 'a')
    writeFileSync(join(directory, 'b.json'), 'b')
    writeFileSync(join(directory, '.c.yaml'), 'c')
    writeFileSync(join(directory, 'd.txt'), 'd')
    mkdirSync(join(directory, 'e.yaml'))
    execFileSync('mkfifo', [join(directory, 'f.yaml')])
    expect(found(await readDirectory(directory, format))).toEqual(['a', 'b'])
    expect(found(await readDirectory(join(directory, 'a.yaml'), format))).toEqual(['a'])
  })

  test('a file that is too large is a problem, not a reason to read it', async () => {
    writeFileSync(join(directory, 'a.yaml'), 'x'.repeat(1001))
    const { files } = await readDirectory(directory, format)
    expect(files.get('a.yaml')).toContain('larger than')
  })

  test('that is not there cannot be watched', async () => {
    await expect(DirectoryWatcher.start(join(directory, 'x'), format, () => {})).rejects.toMatchObject({ code: 'BAD_CONFIG' })
  })
})

describe('watching', () => {
  test('tells changes after a moment of quiet, many as one', async () => {
    const readings: DirectoryReading<string>[] = []
    const watcher = await DirectoryWatcher.start(directory, format, (reading) => readings.push(reading))
    for (let i = 0; i < 20; i++) writeFileSync(join(directory, `n${i}.yaml`), `n${i}`)
    await until(() => found(readings.at(-1)).length === 20)
    expect(readings.length).toBeLessThan(5)
    rmSync(join(directory, 'n0.yaml'))
    await until(() => found(readings.at(-1)).length === 19)
    watcher.close()
  })

  test('a file that did not change is not read again', async () => {
    const readings: DirectoryReading<string>[] = []
    for (const name of ['a', 'b']) writeFileSync(join(directory, `${name}.yaml`), name)
    await sleep(150)
    const watcher = await DirectoryWatcher.start(directory, format, (reading) => readings.push(reading))
    expect(parsed).toEqual(['a.yaml', 'b.yaml'])
    writeFileSync(join(directory, 'b.yaml'), 'c')
    await until(() => found(readings.at(-1)).includes('c'))
    expect(parsed).toEqual(['a.yaml', 'b.yaml', 'b.yaml'])
    watcher.close()
  })

  test('one file survives being replaced', async () => {
    const file = join(directory, 'a.yaml')
    writeFileSync(file, 'a')
    const readings: DirectoryReading<string>[] = []
    const watcher = await DirectoryWatcher.start(file, format, (reading) => readings.push(reading))
    for (const name of ['b', 'c']) {
      writeFileSync(`${file}.new`, name)
      execFileSync('mv', [`${file}.new`, file])
      await until(() => found(readings.at(-1))[0] === name)
    }
    watcher.close()
  })

  test('a directory that goes is a problem; when it is back, it is read again', async () => {
    const readings: DirectoryReading<string>[] = []
    writeFileSync(join(directory, 'a.yaml'), 'a')
    const watcher = await DirectoryWatcher.start(directory, format, (reading) => readings.push(reading))
    rmSync(directory, { recursive: true })
    await until(() => readings.at(-1)?.problem !== undefined)
    mkdirSync(directory)
    writeFileSync(join(directory, 'b.yaml'), 'b')
    await until(() => found(readings.at(-1))[0] === 'b')
    watcher.close()
  })
})
