// The keys of clients' sessions: from a file that all replicas have, or one of this process alone.
import { hkdfSync, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { describeError, MeshError } from '../core/errors.ts'
import type { SessionKeys } from '../policy/l7/session-persistence.ts'

const leastCharacters = 16

/** Each line of the file is the source of one key. Rejects with BAD_CONFIG. */
export async function loadSessionKeys(path: string): Promise<SessionKeys> {
  if (path === '') return { keys: [randomBytes(32)] }
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw new MeshError('BAD_CONFIG', `the keys of sessions cannot be read: ${describeError(error)}`, { cause: error })
  })
  const lines = text.split('\n').map((line) => line.trim()).filter((line) => line !== '')
  if (lines.length === 0 || lines.some((line) => line.length < leastCharacters)) {
    throw new MeshError('BAD_CONFIG', `${path}: keys of sessions have at least ${leastCharacters} characters, one in a line`)
  }
  return { keys: lines.map((line) => Buffer.from(hkdfSync('sha256', line, '', 'sidestep session', 32))) }
}
