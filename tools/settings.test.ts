// docs/settings.md is written from the programs' own tables; whoever changes a setting writes it anew.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { variables as ofControlPlane } from '../src/controlplane/config.ts'
import { variables as ofZtunnel } from '../src/ztunnel/config.ts'
import { settingsPage } from './gen-settings.ts'

test('docs/settings.md has every setting as the programs read it: npm run generate', () => {
  const page = readFileSync(join(import.meta.dirname, '..', 'docs', 'settings.md'), 'utf8')
  expect(page).toBe(settingsPage())
  for (const variable of [...Object.values(ofZtunnel), ...Object.values(ofControlPlane)]) expect(page).toContain(`| \`${variable}\` |`)
})
