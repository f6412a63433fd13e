// Keeps a RevocationList in step with a file. Looks at the file's identity (device, inode, size, times) rather than waiting for
// notices: ConfigMaps swap a symbolic link two levels up, of which inotify on the file says nothing.
import { readFile, stat } from 'node:fs/promises'
import type { Logger } from '../core/log.ts'
import { describeError } from '../core/errors.ts'
import { readCrls } from './crl.ts'
import type { RevocationList } from './crl.ts'
import { isErrno } from './files.ts'

export interface CrlFileOptions {
  readonly path: string
  readonly list: RevocationList
  readonly logger: Logger
  readonly intervalMs?: number
  /** After each change: live connections should be asked again. */
  readonly onChange?: () => void
}

export interface CrlFile {
  /** Looks now; resolves when the list is what the file says. */
  check(): Promise<void>
  stop(): void
}

/** A missing or empty file revokes nothing; one that cannot be read leaves the last good list in force. Never rejects. */
export async function watchCrlFile({ path, list, logger, intervalMs = 1_000, onChange = () => undefined }: CrlFileOptions): Promise<CrlFile> {
  let seen = ''
  let running: Promise<void> | undefined
  let isStopped = false

  const look = async (): Promise<void> => {
    try {
      const identity = await identify(path)
      if (identity === seen || isStopped) return
      const crls = identity === 'absent' ? [] : readCrls(await readFile(path))
      const isFirst = seen === ''
      seen = identity
      if (isFirst && crls.length === 0) return
      list.replace(crls)
      logger.info({ path, lists: crls.length, serials: crls.reduce((sum, crl) => sum + crl.revoked.size, 0) }, 'revocation list loaded')
      onChange()
    } catch (error) {
      // Said once for each content: the next look at the same broken file is silent.
      const identity = await identify(path).catch(() => 'unreadable')
      if (identity !== seen) logger.error({ path, detail: describeError(error) }, 'revocation list unreadable, the last good one stays')
      seen = identity
    }
  }
  const check = (): Promise<void> => {
    running ??= look().finally(() => (running = undefined))
    return running
  }
  await check()
  const timer = setInterval(() => void check(), intervalMs)
  timer.unref()
  return {
    check,
    stop: () => {
      isStopped = true
      clearInterval(timer)
    },
  }
}

async function identify(path: string): Promise<string> {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true })
    return [dev, ino, size, mtimeNs, ctimeNs].join(':')
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return 'absent'
    throw error
  }
}
