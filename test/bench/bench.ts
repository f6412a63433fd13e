#!/usr/bin/env node
// `npm run bench`: measures what the mesh costs, side by side with no mesh, in one run. Makes its own pods and removes
// everything however it ends. Prints a table, and writes JSON into build/bench/. docs/bench.md explains the rows.
import { parseArgs } from 'node:util'
import { describeError, MeshError } from '../../src/core/errors.ts'
import { buildApps } from '../helpers/apps.ts'
import { measureEnrolment } from './enrolment.ts'
import { attachedHooks, measureHooks } from './hook-cost.ts'
import { measureKubernetes } from './kubernetes.ts'
import { measureMemory } from './memory.ts'
import { machineFacts, partNames, save, table } from './report.ts'
import type { PartName, Report, Row } from './report.ts'
import { measureScale } from './scale.ts'
import { full, quick } from './settings.ts'
import type { Bench } from './settings.ts'
import { measureRequests } from './requests/measure.ts'
import { findRivals } from './rivals/pair.ts'
import type { Rivals } from './rivals/pair.ts'
import { Traffic } from './traffic.ts'
import { Undo } from './undo.ts'

const help = `usage: npm run bench -- [--quick] [--only PART[,PART...]] [--no-fetch] [--output DIRECTORY]

Measures plain pods against captured pods on this machine, in turns, and what a large mesh asks of the control plane and of a
node, and prints a table.

  --only PARTS         some of: ${partNames.join(', ')}
  --quick              a smoke run: shows that all works, and nothing about speed
  --no-fetch           compares with nginx and Envoy only if an earlier run has fetched them
  --output DIRECTORY   where the JSON goes; build/bench unless told
  --help               this text

Takes about five minutes; with --quick one. Progress goes to standard error.
`

const trafficParts = ['throughput', 'pingpong', 'connections'] as const

function readParts(text: string | undefined): ReadonlySet<PartName> {
  if (text === undefined) return new Set(partNames)
  const asked = text.split(',').map((part) => part.trim())
  const unknown = asked.filter((part) => !(partNames as readonly string[]).includes(part))
  if (unknown.length > 0) throw new MeshError('BAD_CONFIG', `no such part: ${unknown.join(', ')}; there are ${partNames.join(', ')}`)
  return new Set(asked as PartName[])
}

/** Each part cleans up before the next begins, so that none is measured in another's shadow. */
async function inItsOwn<T>(bench: Bench, outer: Undo, run: (bench: Bench) => Promise<T>): Promise<T> {
  if (outer.isOver) throw new MeshError('CLOSED', 'stopped')
  const undo = new Undo()
  outer.add(() => undo.run())
  try {
    return await run({ ...bench, undo })
  } finally {
    await undo.run()
  }
}

async function measure(bench: Bench, outer: Undo, rivals: Rivals, mayFetch: boolean): Promise<Pick<Report, 'rows' | 'bytes' | 'notes'>> {
  const rows: Row[] = []
  let bytes: Report['bytes'] = {}
  if (trafficParts.some((part) => bench.parts.has(part))) {
    await inItsOwn(bench, outer, async (own) => {
      const traffic = await Traffic.start(own, rivals)
      for (const part of trafficParts) if (bench.parts.has(part)) rows.push(...(await traffic[part]()))
      bytes = await traffic.carried()
    })
  }
  if (bench.parts.has('memory')) rows.push(...(await inItsOwn(bench, outer, (own) => measureMemory(own, rivals))))
  if (bench.parts.has('enrolment')) rows.push(...(await inItsOwn(bench, outer, measureEnrolment)))
  if (bench.parts.has('hooks')) rows.push(...(await inItsOwn(bench, outer, measureHooks)))
  const notes: string[] = []
  if (bench.parts.has('l7')) {
    const requests = await inItsOwn(bench, outer, (own) => measureRequests(own, mayFetch))
    rows.push(...requests.rows)
    notes.push(...requests.notes)
  }
  if (bench.parts.has('scale')) rows.push(...(await inItsOwn(bench, outer, (own) => measureScale(own))))
  if (bench.parts.has('kubernetes')) rows.push(...(await inItsOwn(bench, outer, (own) => measureKubernetes(own))))
  return { rows: rows.toSorted((a, b) => Number(a.baseline === undefined) - Number(b.baseline === undefined)), bytes, notes }
}

async function main(undo: Undo): Promise<void> {
  const { values } = parseArgs({
    options: { quick: { type: 'boolean' }, only: { type: 'string' }, output: { type: 'string' }, 'no-fetch': { type: 'boolean' }, help: { type: 'boolean' } },
  })
  if (values.help === true) {
    process.stdout.write(help)
    return
  }
  const parts = readParts(values.only)
  if (process.getuid?.() !== 0) throw new MeshError('NOT_ROOT', 'the bench makes pods and attaches hooks')
  const startedAt = performance.now()
  const progress = (text: string): void => {
    process.stderr.write(`bench: ${((performance.now() - startedAt) / 1000).toFixed(0).padStart(3)} s  ${text}\n`)
  }
  const isQuick = values.quick === true
  const bench: Bench = { ...(isQuick ? quick : full), parts, undo, progress }
  const date = new Date()
  const machine = machineFacts()
  const notes: string[] = []
  if (isQuick) notes.push('A smoke run: too short to say anything about speed.')
  if (machine.loadBefore > machine.cores / 2) notes.push('Others were at work on this machine shortly before; expect worse figures and wider ranges.')
  const strangers = attachedHooks().length
  if (strangers > 0) notes.push(`${strangers} programs of others were attached to the root of the cgroups all the while; they are in both columns.`)
  progress('building the load generator')
  await buildApps()
  const isCompared = [...trafficParts, 'memory' as const].some((part) => parts.has(part))
  if (isCompared) progress('looking for what is compared with')
  const { rivals, notes: rivalNotes } = isCompared ? await findRivals(values['no-fetch'] !== true) : { rivals: new Map<never, never>(), notes: [] }
  notes.push(...rivalNotes)
  const mayFetch = values['no-fetch'] !== true
  const measured = await measure(bench, undo, rivals, mayFetch)
  notes.push(...measured.notes)
  const report: Report = {
    startedAt: date.toISOString(), seconds: (performance.now() - startedAt) / 1000, command: ['npm run bench', ...commandLine()].join(' '),
    isQuick, machine, ...measured, notes,
  }
  const path = save(report, values.output)
  process.stdout.write(`${table(report)}\n`)
  progress(`written to ${path}`)
}

function commandLine(): string[] {
  const args = process.argv.slice(2)
  return args.length === 0 ? [] : ['--', ...args]
}

const undo = new Undo()
for (const [signal, status] of [['SIGINT', 130], ['SIGTERM', 143]] as const) {
  process.once(signal, () => {
    process.stderr.write('bench: stopping and cleaning up\n')
    void undo.run().then(() => process.exit(status))
  })
}
try {
  await main(undo)
} catch (error) {
  // After Ctrl-C everything fails that was under way; the handler above ends the process.
  if (!undo.isOver) {
    process.stderr.write(`bench: ${describeError(error)}\n`)
    process.exitCode = 1
  }
} finally {
  await undo.run()
}
