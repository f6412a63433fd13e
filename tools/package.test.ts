import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const read = (name: string): string => readFileSync(join(import.meta.dirname, '..', name), 'utf8')

interface PackageJson {
  readonly dependencies: Record<string, string>
  readonly devDependencies: Record<string, string>
  readonly optionalDependencies: Record<string, string>
}

test('the lock file names no registry, so that any mirror serves it', () => {
  expect(read('package-lock.json')).not.toContain('"resolved"')
})

test('dependencies are exact versions', () => {
  const { dependencies, devDependencies, optionalDependencies } = JSON.parse(read('package.json')) as PackageJson
  for (const [name, version] of Object.entries({ ...dependencies, ...devDependencies, ...optionalDependencies })) {
    expect([name, version]).toEqual([name, expect.stringMatching(/^\d+\.\d+\.\d+$/)])
  }
})

test('no dependency runs a script when it is installed: set-up ignores them, and npm may too', () => {
  expect(read('package-lock.json')).not.toContain('"hasInstallScript"')
})
