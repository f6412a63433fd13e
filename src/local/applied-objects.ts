// What was applied by hand, kept as files for the control plane: the newest text of each object, as it was written rather than as it
// was understood; and what Gateways became. Pods and Deployments are left out, because the control plane hears of pods from those that run.
import { readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseAllDocuments, stringify } from 'yaml'
import { isClusterKind, manifestKinds, type ManifestKind } from '../model/manifest.ts'

/** Well within what one file may hold (model/manifest-parse.ts). */
const objectsPerFile = 200
const bytesPerFile = 512 * 1024

export class AppliedObjects {
  readonly #directory: string
  readonly #prefix: string
  readonly #texts = new Map<string, string>()
  #written: readonly string[] = []
  #last: readonly object[] = []

  /** The directory must exist; names of files with that prefix are nobody else's there. */
  constructor(directory: string, prefix = 'applied') {
    this.#directory = directory
    this.#prefix = prefix
  }

  /** `manifest` has been parsed without a problem. */
  apply(manifest: string): void {
    for (const document of parseAllDocuments(manifest, { uniqueKeys: false, logLevel: 'silent' })) {
      if (document === null || !('toJS' in document)) continue
      const value: unknown = document.toJS({ maxAliasCount: 100 })
      const items = isRecord(value) && value['kind'] === 'List' && Array.isArray(value['items']) ? value['items'] : [value]
      for (const item of items) {
        const key = keyOf(item)
        if (key !== undefined) this.#texts.set(key, stringify(item, { aliasDuplicateObjects: false }))
      }
    }
    this.#write()
  }

  /** These, and no others. The very same objects again cost nothing. */
  replace(objects: readonly object[]): void {
    if (objects.length === this.#last.length && objects.every((object, i) => object === this.#last[i])) return
    this.#last = objects
    this.#texts.clear()
    for (const object of objects) {
      const key = keyOf(object)
      if (key !== undefined) this.#texts.set(key, stringify(object, { aliasDuplicateObjects: false }))
    }
    this.#write()
  }

  /** `key` as objectKey gives it. */
  unapply(key: string): void {
    if (this.#texts.delete(key)) this.#write()
  }

  /** In ascending order, so that an object that moves to an earlier file is never in none. */
  #write(): void {
    const files = chunksOf([...this.#texts.values()])
    files.forEach((text, i) => {
      if (this.#written[i] === text) return
      const path = join(this.#directory, this.#fileName(i))
      writeFileSync(join(this.#directory, '.new'), text, { mode: 0o600 })
      renameSync(join(this.#directory, '.new'), path)
    })
    for (const name of readdirSync(this.#directory)) {
      const isOurs = name.startsWith(`${this.#prefix}-`)
      if (isOurs && !files.some((_, i) => name === this.#fileName(i))) rmSync(join(this.#directory, name), { force: true })
    }
    this.#written = files
  }

  #fileName(index: number): string {
    return `${this.#prefix}-${String(index).padStart(4, '0')}.yaml`
  }
}

function chunksOf(texts: readonly string[]): string[] {
  const files: string[] = []
  let part: string[] = []
  let bytes = 0
  for (const text of texts) {
    const size = Buffer.byteLength(text)
    if (part.length > 0 && (part.length >= objectsPerFile || bytes + size > bytesPerFile)) {
      files.push(part.join('---\n'))
      part = []
      bytes = 0
    }
    part.push(text)
    bytes += size
  }
  if (part.length > 0) files.push(part.join('---\n'))
  return files
}

function keyOf(item: unknown): string | undefined {
  if (!isRecord(item)) return undefined
  const { kind, metadata } = item
  if (typeof kind !== 'string' || !isKind(kind) || kind === 'Pod' || kind === 'Deployment' || !isRecord(metadata)) return undefined
  const { name, namespace = 'default' } = metadata
  return isClusterKind(kind) ? `${kind} ${String(name)}` : `${kind} ${String(namespace ?? 'default')}/${String(name)}`
}

function isKind(kind: string): kind is ManifestKind {
  return Object.hasOwn(manifestKinds, kind)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
