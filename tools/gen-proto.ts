// Writes src/proto/*_pb.ts from src/proto/*.proto with protoc and protoc-gen-es. `--check` only compares, and fails on a
// difference. Enums become constants, because Node runs our sources by stripping types.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const folder = join(root, 'src/proto')
const options = 'target=ts,import_extension=ts,erasable_syntax=true'

const sources = readdirSync(folder).filter((name) => name.endsWith('.proto')).sort()

function generate(): Map<string, string> {
  const out = mkdtempSync(join(tmpdir(), 'sidestep-proto-'))
  try {
    const bin = join(root, 'node_modules/.bin')
    execFileSync('protoc', [`--plugin=${join(bin, 'protoc-gen-es')}`, `-I${folder}`, `--es_out=${out}`, `--es_opt=${options}`, ...sources], {
      cwd: folder,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, PATH: `${bin}:${process.env['PATH'] ?? ''}` },
    })
    return new Map(readdirSync(out).sort().map((name) => [name, readFileSync(join(out, name), 'utf8')]))
  } finally {
    rmSync(out, { recursive: true })
  }
}

function committed(): Map<string, string> {
  const names = readdirSync(folder).filter((name) => name.endsWith('_pb.ts')).sort()
  return new Map(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')]))
}

const wanted = generate()
const present = committed()
const different = [...new Set([...wanted.keys(), ...present.keys()])].filter((name) => wanted.get(name) !== present.get(name))

if (process.argv.includes('--check')) {
  if (different.length > 0) {
    console.error(`src/proto: ${different.join(', ')} differ from what the .proto files say; run \`npm run generate\``)
    process.exitCode = 1
  }
} else {
  for (const name of different) {
    const text = wanted.get(name)
    if (text === undefined) rmSync(join(folder, name))
    else writeFileSync(join(folder, name), text)
  }
}
