// What the CNI plugin goes by while no agent answers: every namespace with pods of the mesh, and its failure mode, in a file
// that survives a restart of the node. Without the file the plugin lets everything pass, so it must be written before the plugin
// is chained, and is removed with the mesh.
import { readFile, rm } from 'node:fs/promises'
import { z } from 'zod'
import { MeshError } from '../core/errors.ts'
import { failureModeSchema, type FailureMode } from '../model/enrolment.ts'
import { writeAtomically } from './atomic-file.ts'

const fileSchema = z.strictObject({ v: z.literal(1), namespaces: z.record(z.string().min(1).max(253), failureModeSchema) })

/** Written whole, to the disk, and only where it says something new. */
export async function writeNamespaces(path: string, namespaces: ReadonlyMap<string, FailureMode>): Promise<void> {
  const sorted = [...namespaces].sort(([a], [b]) => (a < b ? -1 : 1))
  const wanted = `${JSON.stringify({ v: 1, namespaces: Object.fromEntries(sorted) })}\n`
  if (await readText(path) === wanted) return
  await writeAtomically(path, wanted, { mode: 0o644 })
}

/** Undefined where there is no such file; BAD_MESSAGE where it is not one of ours. */
export async function readNamespaces(path: string): Promise<ReadonlyMap<string, FailureMode> | undefined> {
  const text = await readText(path)
  if (text === undefined) return undefined
  try {
    return new Map(Object.entries(fileSchema.parse(JSON.parse(text)).namespaces))
  } catch (cause) {
    throw new MeshError('BAD_MESSAGE', `${path} is not a list of namespaces`, { cause })
  }
}

export async function removeNamespaces(path: string): Promise<void> {
  await rm(path, { force: true })
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch {
    // Absent or unreadable: writing it tells which, with an error that says so.
    return undefined
  }
}
