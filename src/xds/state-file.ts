// The last good state on disk, so that a restarted ztunnel serves before, or without, a control plane. A file is written whole
// beside the old one and then takes its name; what is read is used only if it is whole, ours and of the same mesh. Anything
// else is ignored with a reason, because a wrong map of the mesh is worse than none.
import { createHash, hash, randomUUID } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { open, readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setImmediate as breathe } from 'node:timers/promises'
import { DelayedSave } from '../core/delayed-save.ts'
import { MeshError, describeError } from '../core/errors.ts'
import type { Logger } from '../core/log.ts'
import { decoding, refuse } from './decoded.ts'
import type { Decoded } from './decoded.ts'
import type { XdsSnapshot } from './client.ts'
import { decodeFrame, encodeFrame, encodeResponse, parseResponse } from './frames.ts'
import type { RawResource } from './frames.ts'
import { resourceTypes, typeOfUrl, typeUrls } from './resource-types.ts'
import type { ResourceType } from './resource-types.ts'

// The file: magic, then blocks of a 4-byte length and that many bytes, then 32 bytes of SHA-256 of all before. The first block
// is the scope; each of the others is a delta response with some resources of one type.
const magic = Buffer.from('sidestep-xds-1\n')
const digestLength = 32
const resourcesPerBlock = 500

export interface StateFileOptions {
  readonly path: string
  /** Which mesh and cluster the state is of; a file of another is ignored. */
  readonly scope: string
  readonly maxBytes?: number
}

const defaultMaxBytes = 256 * 1024 * 1024

function block(content: Uint8Array): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32BE(content.length)
  return Buffer.concat([length, content])
}

/**
 * Writes the state; the file has mode 0600. Throws SYSCALL_FAILED, and OVERLOADED where it would be over maxBytes; the old file
 * then stays.
 */
export async function saveState({ path, scope, maxBytes = defaultMaxBytes }: StateFileOptions, snapshot: XdsSnapshot): Promise<void> {
  const temporary = `${path}.${randomUUID()}.new`
  let file: FileHandle | undefined
  try {
    file = await open(temporary, 'wx', 0o600)
    await write(file, blocks(scope, snapshot), maxBytes)
    await file.sync()
    await file.close()
    file = undefined
    await rename(temporary, path)
    await syncDirectory(dirname(path))
  } catch (error) {
    await file?.close()
    await rm(temporary, { force: true })
    if (error instanceof MeshError) throw error
    throw new MeshError('SYSCALL_FAILED', `the state of the mesh was not saved to ${path}: ${describeError(error)}`, { cause: error })
  }
}

function* blocks(scope: string, snapshot: XdsSnapshot): Generator<Buffer> {
  yield magic
  yield block(Buffer.from(scope))
  for (const type of resourceTypes) {
    const typeUrl = typeUrls[type]
    for (let at = 0; at < snapshot[type].length; at += resourcesPerBlock) {
      const frames = snapshot[type].slice(at, at + resourcesPerBlock).map((each) => encodeFrame(each, typeUrl))
      yield block(encodeResponse({ typeUrl, nonce: '', systemVersion: '', removed: [] }, frames))
    }
  }
}

async function write(file: FileHandle, parts: Iterable<Buffer>, maxBytes: number): Promise<void> {
  const digest = createHash('sha256')
  let bytes = digestLength
  for (const part of parts) {
    bytes += part.length
    if (bytes > maxBytes) {
      throw new MeshError('OVERLOADED', `the state of the mesh is over ${maxBytes} bytes and was not saved`, { detail: { limit: 'maxBytes' } })
    }
    digest.update(part)
    await writeAll(file, part)
  }
  await writeAll(file, digest.digest())
}

async function writeAll(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at)).bytesWritten
}

// Without it a power cut may leave the directory with neither name.
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r')
  try {
    await directory.sync()
  } finally {
    await directory.close()
  }
}

/** The state saved last, or why there is none to use. Never throws. */
export async function loadState({ path, scope, maxBytes = defaultMaxBytes }: StateFileOptions): Promise<Decoded<XdsSnapshot>> {
  let file: FileHandle | undefined
  try {
    await removeLeftovers(path)
    file = await open(path, 'r')
    const { size } = await file.stat()
    if (size > maxBytes) return { ok: false, because: `${path} is over ${maxBytes} bytes` }
    const bytes = Buffer.alloc(size)
    for (let at = 0; at < size;) {
      const { bytesRead } = await file.read(bytes, at, size - at)
      if (bytesRead === 0) return { ok: false, because: `${path} was cut while it was read` }
      at += bytesRead
    }
    return await parseState(bytes, scope)
  } catch (error) {
    return { ok: false, because: describeError(error) }
  } finally {
    await file?.close()
  }
}

/** What a process that was killed while writing has left. */
async function removeLeftovers(path: string): Promise<void> {
  const name = basename(path)
  for (const each of await readdir(dirname(path))) {
    if (each.startsWith(`${name}.`) && each.endsWith('.new')) await rm(join(dirname(path), each), { force: true })
  }
}

/** The content of a file. */
export async function parseState(bytes: Buffer, scope: string): Promise<Decoded<XdsSnapshot>> {
  const end = bytes.length - digestLength
  if (end < magic.length || !bytes.subarray(0, magic.length).equals(magic)) return { ok: false, because: 'not a state file of this version' }
  if (!hash('sha256', bytes.subarray(0, end), 'buffer').equals(bytes.subarray(end))) return { ok: false, because: 'the checksum does not fit' }
  const snapshot: MutableSnapshot = { address: [], authorization: [], waypoint: [] }
  let at = magic.length
  let isFirst = true
  while (at < end) {
    const from = at
    const decoded = decoding(() => {
      const length = end - from < 4 ? refuse('a block is cut') : bytes.readUInt32BE(from)
      if (from + 4 + length > end) refuse('a block is cut')
      const content = bytes.subarray(from + 4, from + 4 + length)
      if (isFirst && content.toString() !== scope) refuse(`it is of ${JSON.stringify(content.toString().slice(0, 200))}`)
      if (!isFirst) readBlock(content, snapshot)
      return from + 4 + length
    })
    if (!decoded.ok) return decoded
    at = decoded.value
    isFirst = false
    await breathe()
  }
  return isFirst ? { ok: false, because: 'it has no scope' } : { ok: true, value: snapshot }
}

type MutableSnapshot = Readonly<Record<ResourceType, RawResource[]>>

function readBlock(content: Buffer, snapshot: MutableSnapshot): void {
  const { typeUrl, frames } = parseResponse(content)
  const type = typeOfUrl(typeUrl) ?? refuse(`it has the type ${JSON.stringify(typeUrl.slice(0, 200))}`)
  for (const frame of frames) {
    const { typeUrl: _, ...raw } = decodeFrame(frame)
    snapshot[type].push(raw)
  }
}

/** Saves some time after each change, and once more at close; a save that fails is logged and tried again with the next. */
export class StateKeeper extends DelayedSave {
  constructor(options: StateFileOptions, snapshot: () => XdsSnapshot, log: Logger, delayMs = 2_000) {
    super({
      save: () => saveState(options, snapshot()), delayMs,
      onFailure: (error) => log.warn({ because: describeError(error) }, 'state of the mesh not saved'),
    })
  }
}
