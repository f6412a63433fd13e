// Text of a YAML file to Kubernetes objects, or to problems with file, line and reason. The text may come from a
// stranger: size, number of documents, depth and alias expansion are bounded, and nothing is ever thrown.
import { isMap, isNode, isScalar, isSeq, LineCounter, parseAllDocuments, visit, type Document } from 'yaml'
import type { FileFormat } from '../core/directory.ts'
import { clusterMetadata, metadata } from './manifest-fields.ts'
import { foreignKinds, isClusterKind, manifestKinds, type ManifestKind, type ManifestObject, type Origin, type Problem } from './manifest.ts'

export const maxManifestBytes = 1 << 20
const maxDocuments = 1000
const maxDepth = 100
const maxItems = 50_000
const maxProblems = 100

/** `notes` are remarks (a kind that is not read here); only `problems` make a file bad. */
export interface ParsedManifest {
  readonly objects: readonly ManifestObject[]
  readonly problems: readonly Problem[]
  readonly notes: readonly Problem[]
}

/** Reads one file's text. `file` only names it in the results. Never throws. */
export function parseManifest(text: string, file: string): ParsedManifest {
  const objects: ManifestObject[] = []
  const problems: Problem[] = []
  const notes: Problem[] = []
  const refuse: Refuse = (line, reason, object) => {
    if (problems.length < maxProblems) problems.push({ file, line, reason, ...(object === undefined ? {} : { object }) })
  }
  try {
    readDocuments(text, file, objects, notes, refuse)
  } catch (error) {
    // The YAML library recurses; text built to exhaust the stack ends here, as would a bug of its own.
    refuse(1, `not readable as YAML: ${error instanceof Error ? error.message : String(error)}`)
  }
  return { objects, problems, notes }
}

/**
 * One object as an API gives it, of which nobody knows a line: every problem has that place, and the object's key where it can be
 * told. Never throws.
 */
export function parseObject(value: unknown, origin: Origin): ParsedManifest {
  const objects: ManifestObject[] = []
  const problems: Problem[] = []
  const notes: Problem[] = []
  const refuse: Refuse = (_line, reason, object) => {
    if (problems.length < maxProblems) problems.push({ ...origin, reason, ...(object === undefined ? {} : { object }) })
  }
  try {
    readObject(withoutNulls(value, 0), [], origin.file, () => origin.line, objects, notes, refuse)
  } catch (error) {
    refuse(origin.line, error instanceof RangeError ? error.message : 'not readable')
  }
  return { objects, problems, notes }
}

/** For core/directory.ts: which files hold manifests and how they are read. */
export const manifestFiles: FileFormat<ParsedManifest> = {
  matches: /\.(ya?ml|json)$/i,
  maxBytes: maxManifestBytes,
  parse: parseManifest,
  unreadable: (file, reason) => ({ objects: [], notes: [], problems: [{ file, line: 1, reason }] }),
}

type Refuse = (line: number, reason: string, object?: string) => void

function readDocuments(text: string, file: string, objects: ManifestObject[], notes: Problem[], refuse: Refuse): void {
  if (Buffer.byteLength(text) > maxManifestBytes) return refuse(1, `the file is larger than ${maxManifestBytes} bytes`)
  if ((text.match(/^---/gm)?.length ?? 0) > maxDocuments) return refuse(1, `the file has more than ${maxDocuments} documents`)
  const tooDeep = nestingTooDeep(text)
  if (tooDeep !== undefined) return refuse(tooDeep, `nested more than ${maxDepth} levels deep`)
  const lines = new LineCounter()
  const lineOf = (offset: number): number => Math.max(1, lines.linePos(offset).line)
  // uniqueKeys compares every key with every other (quadratic), so duplicates are looked for below instead.
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false, logLevel: 'silent' })
  if (!Array.isArray(documents)) return
  const mayHoldSecret = /\bSecret\b/.test(text)
  for (const document of documents as Document.Parsed[]) {
    for (const error of document.errors) refuse(lineOf(error.pos[0]), mayHoldSecret ? plainly(error.code) : error.message)
    if (document.errors.length > 0 || document.contents === null) continue
    if (isScalar(document.contents) && document.contents.value === null) continue
    const broken = checkTree(document)
    if (broken) {
      refuse(lineOf(broken.offset), broken.reason)
      continue
    }
    let value: unknown
    try {
      value = withoutNulls(document.toJS({ maxAliasCount: 100 }), 0)
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      refuse(lineOf(document.range[0]), mayHoldSecret ? plainly('unresolved') : message)
      continue
    }
    const lineAt = (path: readonly PropertyKey[]): number => lineOf(offsetOf(document, path))
    if (isRecord(value) && value['kind'] === 'List' && Array.isArray(value['items'])) {
      value['items'].forEach((item, i) => readObject(item, ['items', i], file, lineAt, objects, notes, refuse))
    } else {
      readObject(value, [], file, lineAt, objects, notes, refuse)
    }
  }
}

function readObject(
  value: unknown,
  base: readonly PropertyKey[],
  file: string,
  lineAt: (path: readonly PropertyKey[]) => number,
  objects: ManifestObject[],
  notes: Problem[],
  refuse: Refuse,
): void {
  if (!isRecord(value)) return refuse(lineAt(base), 'not a Kubernetes object: expected a mapping with apiVersion and kind')
  const { kind, apiVersion } = value
  if (typeof kind !== 'string' || kind === '') return refuse(lineAt([...base, 'kind']), 'kind is missing')
  if (typeof apiVersion !== 'string' || apiVersion === '') return refuse(lineAt([...base, 'apiVersion']), 'apiVersion is missing')
  if (!isKnownKind(kind) || !knownGroups.has(groupOf(apiVersion)) || foreignKinds[kind]?.includes(groupOf(apiVersion))) {
    if (notes.length < maxProblems) {
      notes.push({ file, line: lineAt([...base, 'kind']), reason: `${kind.slice(0, 100)} of ${apiVersion.slice(0, 100)} is not read here; ignored` })
    }
    return
  }
  const known = manifestKinds[kind]
  const object = keyOf(kind, value['metadata'])
  if (!known.apiVersions.some((each) => each === apiVersion)) {
    return refuse(lineAt([...base, 'apiVersion']), `apiVersion of a ${kind} must be ${known.apiVersions.join(' or ')}`, object)
  }
  const parsed = known.schema.safeParse(value)
  if (!parsed.success) {
    for (const issue of parsed.error.issues) {
      const where = issue.path.map(String).join('.')
      refuse(lineAt([...base, ...issue.path]), where === '' ? issue.message : `${where}: ${issue.message}`, object)
    }
    return
  }
  objects.push({ kind, origin: { file, line: lineAt(base) }, ...parsed.data } as ManifestObject)
}

function groupOf(apiVersion: string): string {
  const slash = apiVersion.indexOf('/')
  return slash < 0 ? '' : apiVersion.slice(0, slash)
}

const knownGroups = new Set(Object.values(manifestKinds).flatMap(({ apiVersions }) => apiVersions.map(groupOf)))

/** What objectKey would say of an object that may be bad elsewhere; undefined if its name itself is. */
function keyOf(kind: ManifestKind, value: unknown): string | undefined {
  if (isClusterKind(kind)) {
    const { data } = clusterMetadata.pick({ name: true }).safeParse(value)
    return data && `${kind} ${data.name}`
  }
  const { data } = metadata.pick({ name: true, namespace: true }).safeParse(value)
  return data && `${kind} ${data.namespace}/${data.name}`
}

function isKnownKind(kind: string): kind is ManifestKind {
  return Object.hasOwn(manifestKinds, kind)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** The YAML library quotes what it stumbles over, which may be a line of a private key. */
function plainly(code: string): string {
  return `not valid YAML: ${code.toLowerCase().replaceAll('_', ' ')}`
}

/** A cheap bound before the recursive parser sees the text: the line where flow or block nesting passes the limit. */
function nestingTooDeep(text: string): number | undefined {
  let depth = 0
  let line = 1
  let indicators = 0
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i)
    if (char === 10) {
      line++
      indicators = 0
    } else if (char === 91 || char === 123) {
      if (++depth > maxDepth * 10) return line
    } else if (char === 93 || char === 125) {
      depth = Math.max(0, depth - 1)
    } else if ((char === 45 || char === 63) && text.charCodeAt(i + 1) === 32) {
      // "- - - -" and "? ? ?" nest on one line.
      if (++indicators > maxDepth * 10) return line
    }
  }
  return undefined
}

/** First duplicate key, merge bomb or over-deep place of a document. */
function checkTree(document: Document.Parsed): { offset: number; reason: string } | undefined {
  let found: { offset: number; reason: string } | undefined
  let items = 0
  visit(document, {
    Collection: (_key, node, path) => {
      items += node.items.length
      if (path.length > maxDepth * 2) found = { offset: node.range?.[0] ?? 0, reason: `nested more than ${maxDepth} levels deep` }
      if (items > maxItems) found = { offset: node.range?.[0] ?? 0, reason: `more than ${maxItems} values in one document` }
      if (!found && isMap(node)) {
        const seen = new Set<unknown>()
        for (const { key } of node.items) {
          if (!isScalar(key)) {
            found = { offset: node.range?.[0] ?? 0, reason: 'a key is not plain text' }
            break
          }
          if (seen.has(key.value)) {
            found = { offset: key.range?.[0] ?? 0, reason: `the key ${String(key.value).slice(0, 100)} is given twice` }
            break
          }
          seen.add(key.value)
        }
      }
      return found ? visit.BREAK : undefined
    },
  })
  return found
}

/** Kubernetes reads `labels:` without a value as absent; so do we. Copies, so shared aliases become separate values. */
function withoutNulls(value: unknown, depth: number): unknown {
  if (depth > maxDepth) throw new RangeError(`nested more than ${maxDepth} levels deep`)
  if (Array.isArray(value)) return value.map((item) => withoutNulls(item, depth + 1))
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).filter(([, v]) => v !== null && v !== undefined).map(([k, v]) => [k, withoutNulls(v, depth + 1)]),
  )
}

/** Offset of the value at a path or, where it is missing, of the nearest thing around it that exists. */
function offsetOf(document: Document.Parsed, path: readonly PropertyKey[]): number {
  let node: unknown = document.contents
  let offset = document.contents?.range[0] ?? document.range[0]
  for (const part of path) {
    let next: unknown
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part))
      if (pair && isScalar(pair.key) && pair.key.range) offset = pair.key.range[0]
      next = pair?.value
    } else if (isSeq(node)) {
      next = node.items[Number(part)]
      if (isNode(next) && next.range) offset = next.range[0]
    }
    if (!isNode(next)) break
    node = next
  }
  return offset
}
