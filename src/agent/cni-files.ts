// The node's directory of CNI configurations, as container runtimes read it, and our entry in one of its files. Each step is a
// rename, in an order in which there is never a moment without a valid network. A configuration of one plugin, which has no place
// for ours, is replaced by a list made of it and kept beside under a name that runtimes do not read.
import { readdir, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, MeshError } from '../core/errors.ts'
import { temporarySuffix, writeAtomically, type FileOwner } from './atomic-file.ts'
import { hasEntry, listOf, withEntry, withoutEntry, type PluginEntry } from './cni-config-text.ts'

/** What runtimes take for a configuration (libcni's ConfFiles). */
const configName = /\.(conf|conflist|json)$/
const listName = /\.conflist$/
const savedSuffix = '.sidestep-saved'
const maxConfigBytes = 4 << 20
/** A temporary file that is older was left by a process that died. */
const staleMs = 60_000

interface Stamp extends FileOwner {
  readonly text: string
}

/** Names of what a runtime reads, in its order. Empty where there is no directory. */
export async function configNames(directory: string): Promise<string[]> {
  return (await namesIn(directory)).filter((name) => configName.test(name))
}

/** The first file that a runtime would take for its network, with what it says there; undefined where there is none. */
export async function activeConfig(
  directory: string, onSkipped: (name: string, because: string) => void = () => {},
): Promise<{ readonly name: string; readonly text: string } | undefined> {
  for (const name of await configNames(directory)) {
    try {
      const { text } = await read(join(directory, name))
      if (listName.test(name)) withoutEntry(text)
      else listOf(text)
      return { name, text }
    } catch (error) {
      onSkipped(name, describeError(error))
    }
  }
  return undefined
}

/**
 * Makes our entry the last of the active network's chain, and takes it out of every other one. Resolves to the file that has it,
 * and whether anything had to be written. BAD_CONFIG where there is no network, or one that cannot be chained.
 */
export async function chain(directory: string, entry: PluginEntry): Promise<{ readonly file: string; readonly isChanged: boolean }> {
  const skipped: string[] = []
  const active = await activeConfig(directory, (name, because) => skipped.push(`${name}: ${because}`))
  const others = skipped.length === 0 ? ' yet' : `; ${skipped.join('; ')}`
  if (!active) throw new MeshError('BAD_CONFIG', `there is no network configuration in ${directory}${others}`)
  try {
    const isList = listName.test(active.name)
    const file = isList ? active.name : `${active.name}.conflist`
    const wanted = withEntry(isList ? active.text : listOf(active.text), entry)
    const isWritten = await put(join(directory, active.name), join(directory, file), active.text, wanted)
    // Until here the single configuration came first and stayed in force.
    if (!isList) await save(join(directory, active.name), active.text)
    const isOut = await unchain(directory, file)
    return { file, isChanged: isWritten || isOut }
  } catch (error) {
    if (!(error instanceof MeshError) || error.code !== 'BAD_CONFIG') throw error
    throw new MeshError('BAD_CONFIG', `${active.name} cannot be chained: ${error.message}`, { cause: error })
  }
}

/** Takes our entry out of every file but `except`. Whether there was any. What cannot be read is left alone. */
export async function unchain(directory: string, except?: string): Promise<boolean> {
  let isChanged = false
  for (const name of await configNames(directory)) {
    if (name === except || !listName.test(name)) continue
    const path = join(directory, name)
    const found = await read(path).catch(() => undefined)
    if (!found || !isChained(found.text)) continue
    const single = path.slice(0, -'.conflist'.length)
    const saved = await read(single + savedSuffix).catch(() => undefined)
    const bare = withoutEntry(found.text)
    if (saved && bare === listOf(saved.text)) {
      // Where somebody wrote it anew since, that is what counts.
      if (await read(single).catch(() => undefined)) await rm(single + savedSuffix)
      else await rename(single + savedSuffix, single)
      await rm(path)
    } else {
      await put(path, path, found.text, bare)
      // Somebody made the list their own.
      await rm(single + savedSuffix, { force: true })
    }
    isChanged = true
  }
  return isChanged
}

/** What we left beside: single configurations whose list is gone, and temporary files, of others only those that are stale. */
export async function tidy(directory: string, everything: boolean): Promise<void> {
  const names = await namesIn(directory)
  for (const name of names) {
    const path = join(directory, name)
    if (name.endsWith(temporarySuffix)) {
      const age = await stat(path).then(({ mtimeMs }) => Date.now() - mtimeMs, () => 0)
      if (everything || age > staleMs) await rm(path, { force: true })
    } else if (everything && name.endsWith(savedSuffix)) {
      if (!names.includes(`${name.slice(0, -savedSuffix.length)}.conflist`)) await rm(path, { force: true })
    }
  }
}

function isChained(text: string): boolean {
  try {
    return hasEntry(text)
  } catch {
    // Not a list: nothing of ours is in it.
    return false
  }
}

/** Takes a single configuration out of the runtimes' sight; back again where it is no longer what the list was made of. */
async function save(single: string, read: string): Promise<void> {
  await rename(single, single + savedSuffix)
  if ((await stampOf(single + savedSuffix)).text === read) return
  await rename(single + savedSuffix, single)
  throw new MeshError('BAD_CONFIG', `${single} changed meanwhile`, { retry: 'always' })
}

/** Whether it had to be written. Nothing is where `from` changed since it was read: the next look decides anew. */
async function put(from: string, to: string, read: string, wanted: string): Promise<boolean> {
  const before = await stampOf(from)
  if (from === to && read === wanted) return false
  // Where a link stands, it is its target that is meant.
  await writeAtomically(await realpath(to).catch(() => to), wanted, before, async () => {
    if ((await stampOf(from)).text !== read) throw new MeshError('BAD_CONFIG', `${from} changed meanwhile`, { retry: 'always' })
  })
  return true
}

async function stampOf(path: string): Promise<Stamp> {
  const { text } = await read(path)
  const { mode, uid, gid } = await stat(path)
  return { text, mode: mode & 0o7777, uid, gid }
}

async function read(path: string): Promise<{ readonly text: string }> {
  if ((await stat(path)).size > maxConfigBytes) throw new MeshError('BAD_CONFIG', `${path} is longer than ${maxConfigBytes} bytes`)
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(await readFile(path)) }
  } catch (cause) {
    throw cause instanceof TypeError ? new MeshError('BAD_CONFIG', `${path} is not UTF-8`, { cause }) : cause
  }
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    const found = await readdir(directory, { withFileTypes: true })
    return found.filter((each) => !each.isDirectory()).map(({ name }) => name).sort()
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}
