// Writes src/kernel/generated/layout.ts from the BTF of the compiled programs: sizes, offsets, readers, writers, enums and a
// hash of it all. `--check` only compares, and fails on a difference. Nobody keeps two lists in step.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

interface BtfMember {
  readonly name: string
  readonly type_id: number
  readonly bits_offset: number
}

interface BtfType {
  readonly id: number
  readonly kind: string
  readonly name: string
  readonly size?: number
  readonly type_id?: number
  readonly nr_elems?: number
  readonly members?: readonly BtfMember[]
  readonly values?: readonly { readonly name: string; readonly val: number }[]
  readonly vars?: readonly { readonly type_id: number }[]
}

type Kind = 'u8' | 'u16' | 'u32' | 'u64' | 'be16' | 'bytes' | 'struct'

interface Field {
  readonly name: string
  readonly kind: Kind
  readonly offset: number
  readonly size: number
  readonly struct?: string
}

interface Struct {
  readonly name: string
  readonly size: number
  readonly fields: readonly Field[]
}

const root = join(import.meta.dirname, '..')
const objectPath = join(root, 'build/bpf/layout.bpf.o')
const outputPath = join(root, 'src/kernel/generated/layout.ts')

const types = new Map<number, BtfType>()
const dump = execFileSync('bpftool', ['-j', 'btf', 'dump', 'file', objectPath], {
  encoding: 'utf8',
  maxBuffer: 64 * 1024 * 1024,
  env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
})
for (const type of (JSON.parse(dump) as { types: BtfType[] }).types) types.set(type.id, type)

function typeOf(id: number | undefined): BtfType {
  const type = types.get(id ?? 0)
  if (!type) throw new Error(`BTF has no type ${String(id)}`)
  return type
}

const pascal = (name: string): string =>
  name.replace(/^mesh_/, '').replace(/(^|_)([a-z0-9])/g, (_all, _sep, letter: string) => letter.toUpperCase())
const camel = (name: string): string => pascal(name).replace(/^[A-Z]/, (letter) => letter.toLowerCase())

/** The field's kind: `__be16` is recognised by its typedef's name, an address and byte arrays stay bytes. */
function fieldOf(member: BtfMember): Field {
  const offset = member.bits_offset / 8
  const name = camel(member.name)
  let type = typeOf(member.type_id)
  while (type.kind === 'TYPEDEF') {
    if (type.name === '__be16') return { name, kind: 'be16', offset, size: 2 }
    type = typeOf(type.type_id)
  }
  if (type.kind === 'STRUCT' && type.name === 'mesh_address') return { name, kind: 'bytes', offset, size: 16 }
  if (type.kind === 'STRUCT') return { name, kind: 'struct', offset, size: type.size ?? 0, struct: type.name }
  if (type.kind === 'ARRAY') return { name, kind: 'bytes', offset, size: (type.nr_elems ?? 0) * sizeOf(typeOf(type.type_id)) }
  const size = sizeOf(type)
  const kinds: Record<number, Kind> = { 1: 'u8', 2: 'u16', 4: 'u32', 8: 'u64' }
  const kind = kinds[size]
  if (!kind) throw new Error(`${member.name}: no reader for ${type.kind} of ${size} bytes`)
  return { name, kind, offset, size }
}

function sizeOf(type: BtfType): number {
  return type.kind === 'TYPEDEF' ? sizeOf(typeOf(type.type_id)) : (type.size ?? 0)
}

const structs: Struct[] = []
const enums: { name: string; values: readonly { name: string; val: number }[] }[] = []
for (const type of types.values()) {
  if (!type.name.startsWith('mesh_')) continue
  if (type.kind === 'STRUCT' && type.name !== 'mesh_address') {
    const fields = (type.members ?? []).map(fieldOf).filter((field) => !field.name.startsWith('padding'))
    structs.push({ name: pascal(type.name), size: type.size ?? 0, fields })
  }
  if (type.kind === 'ENUM') enums.push({ name: pascal(type.name), values: type.values ?? [] })
}
structs.sort((a, b) => (a.name < b.name ? -1 : 1))
enums.sort((a, b) => (a.name < b.name ? -1 : 1))

/** `REASON_ZTUNNEL_AWAY` of enum Reason becomes `ztunnelAway`: the word that logs and metrics use. */
function valueName(enumName: string, name: string): string {
  const prefix = enumName.replace(/[A-Z]/g, (letter, index: number) => (index ? '_' : '') + letter).toUpperCase()
  const head = prefix.split('_')[0] ?? ''
  const bare = name.startsWith(`${prefix}_`) ? name.slice(prefix.length + 1) : name.startsWith(`${head}_`) ? name.slice(head.length + 1) : name
  return camel(bare.toLowerCase())
}

const tsType = (field: Field): string =>
  field.kind === 'u64' ? 'bigint' : field.kind === 'bytes' ? 'Uint8Array' : field.kind === 'struct' ? pascal(field.struct ?? '') : 'number'

function reader(field: Field): string {
  switch (field.kind) {
    case 'u8': return `view.getUint8(offset + ${field.offset})`
    case 'u16': return `view.getUint16(offset + ${field.offset}, littleEndian)`
    case 'be16': return `view.getUint16(offset + ${field.offset}, false)`
    case 'u32': return `view.getUint32(offset + ${field.offset}, littleEndian)`
    case 'u64': return `view.getBigUint64(offset + ${field.offset}, littleEndian)`
    case 'bytes': return `bytes.slice(offset + ${field.offset}, offset + ${field.offset + field.size})`
    case 'struct': return `read${pascal(field.struct ?? '')}(bytes, offset + ${field.offset})`
    default: return field.kind satisfies never
  }
}

function writer(field: Field): string {
  switch (field.kind) {
    case 'u8': return `view.setUint8(${field.offset}, value.${field.name})`
    case 'u16': return `view.setUint16(${field.offset}, value.${field.name}, littleEndian)`
    case 'be16': return `view.setUint16(${field.offset}, value.${field.name}, false)`
    case 'u32': return `view.setUint32(${field.offset}, value.${field.name}, littleEndian)`
    case 'u64': return `view.setBigUint64(${field.offset}, value.${field.name}, littleEndian)`
    case 'bytes': return `bytes.set(value.${field.name}.subarray(0, ${field.size}), ${field.offset})`
    case 'struct': return `bytes.set(write${pascal(field.struct ?? '')}(value.${field.name}), ${field.offset})`
    default: return field.kind satisfies never
  }
}

function structSource(struct: Struct): string {
  const usesBytes = struct.fields.some((field) => field.kind === 'bytes' || field.kind === 'struct')
  const usesView = struct.fields.some((field) => field.kind !== 'bytes' && field.kind !== 'struct')
  return `
export interface ${struct.name} {
${struct.fields.map((field) => `  readonly ${field.name}: ${tsType(field)}`).join('\n')}
}

export const size${struct.name} = ${struct.size}

export function write${struct.name}(value: ${struct.name}): Uint8Array {
  const bytes = new Uint8Array(${struct.size})
${usesView ? '  const view = new DataView(bytes.buffer)\n' : ''}${struct.fields.map((field) => `  ${writer(field)}`).join('\n')}
  return bytes
}

export function read${struct.name}(bytes: Uint8Array, offset = 0): ${struct.name} {
${usesView ? '  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)\n' : usesBytes ? '' : ''}  return {
${struct.fields.map((field) => `    ${field.name}: ${reader(field)},`).join('\n')}
  }
}
`
}

function enumSource({ name, values }: { name: string; values: readonly { name: string; val: number }[] }): string {
  return `
export const ${camel(name)} = {
${values.map((value) => `  ${valueName(name, value.name)}: ${value.val},`).join('\n')}
} as const
export type ${name} = keyof typeof ${camel(name)}
`
}

/** Map name to its key's and value's size in bytes, and its room: part of the contract, so part of the hash. */
function mapsOf(): string[] {
  const section = [...types.values()].find((type) => type.kind === 'DATASEC' && type.name === '.maps')
  return (section?.vars ?? [])
    .map((entry) => typeOf(entry.type_id))
    .map((variable) => {
      const members = typeOf(variable.type_id).members ?? []
      const facts = members.map((member) => {
        const pointed = typeOf(typeOf(member.type_id).type_id)
        return `${member.name}=${pointed.kind === 'ARRAY' ? String(pointed.nr_elems) : `${pointed.name}:${sizeOf(pointed)}`}`
      })
      return `${variable.name}(${facts.join(' ')})`
    })
    .sort()
}

const body = structs.map(structSource).join('') + enums.map(enumSource).join('')
const maps = mapsOf()
const hash = createHash('sha256').update(body).update(maps.join('\n')).digest('hex')
const source = `// Generated by tools/gen-layout.ts from the BTF of bpf/layout.bpf.c: do not edit, run \`npm run generate\`.
// Byte order: fields declared __be16 are converted; addresses are 16 bytes in network order.

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** SHA-256 over all that follows and over the maps: ${maps.length} of them. Pinned maps of another hash are not touched. */
export const layoutHash = '${hash}'
${body}`

if (process.argv.includes('--check')) {
  const found = readFileSync(outputPath, 'utf8')
  if (found !== source) {
    process.stderr.write('src/kernel/generated/layout.ts differs from bpf/include: run `npm run generate` and commit the result\n')
    process.exitCode = 1
  }
} else {
  writeFileSync(outputPath, source)
}
