// The certificates of this node's identities and their keys in a file of mode 0600, so that a ztunnel that starts while the CA is
// away has them. What is read is believed no more than what a CA answers: another key, a wrong identity, an expired or broken
// entry is left out with its reason. Nobody else may read the file, or it is not used.
import { createPrivateKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import type { CertifiedKey } from '../core/certificates.ts'
import { DelayedSave } from '../core/delayed-save.ts'
import { describeError } from '../core/errors.ts'
import { formatIdentity, parseIdentity } from '../core/identity.ts'
import type { Logger } from '../core/log.ts'
import { certifiedKey } from './certified-key.ts'
import { isErrno, requirePrivate, writeFileAtomic } from './files.ts'

const entrySchema = z.object({ identity: z.string(), chainPem: z.string(), keyPem: z.string(), rootsPem: z.array(z.string()).max(64) })
const fileSchema = z.object({ version: z.literal(1), certificates: z.array(z.unknown()).max(10_000) })

/** Rejects as the file system does. */
export async function saveCertificates(path: string, certificates: readonly CertifiedKey[]): Promise<void> {
  const entries = certificates.map(({ identity, chainPem, key, rootsPem }): z.infer<typeof entrySchema> => ({
    identity: formatIdentity(identity), chainPem, rootsPem: [...rootsPem], keyPem: String(key.export({ type: 'pkcs8', format: 'pem' })),
  }))
  await writeFileAtomic(path, JSON.stringify({ version: 1, certificates: entries }))
}

/** Those that are good now. Never rejects: without the file, or with one that cannot be used, there are none. */
export async function loadCertificates(path: string, nowMs: number, logger: Logger): Promise<CertifiedKey[]> {
  let entries: readonly unknown[]
  try {
    await requirePrivate(path)
    entries = fileSchema.parse(JSON.parse(await readFile(path, 'utf8'))).certificates
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) logger.warn({ path, because: describeError(error) }, 'kept certificates not used')
    return []
  }
  return entries.flatMap((entry) => {
    try {
      return readEntry(entry, nowMs)
    } catch (error) {
      logger.info({ path, because: describeError(error) }, 'kept certificate not used')
      return []
    }
  })
}

function readEntry(entry: unknown, nowMs: number): CertifiedKey[] {
  const { identity: uri, chainPem, keyPem, rootsPem } = entrySchema.parse(entry)
  const identity = parseIdentity(uri)
  return identity ? [certifiedKey([chainPem, rootsPem.join('')], identity, createPrivateKey(keyPem), nowMs)] : []
}

/** Writes what `current` gives, some time after each change and once more at close. */
export class CertificateKeeper extends DelayedSave {
  constructor(path: string, current: () => readonly CertifiedKey[], logger: Logger, delayMs = 500) {
    super({
      save: () => saveCertificates(path, current()), delayMs,
      onFailure: (error) => logger.warn({ path, because: describeError(error) }, 'certificates not kept'),
    })
  }
}
