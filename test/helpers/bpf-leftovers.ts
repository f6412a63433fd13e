// What the machine looks like from outside, so that a test can assert that it was left as it was. It only reads: nothing
// here may change or clean anything. Entries are plain text made to be read in a failure message.
import { execFile } from 'node:child_process'
import { access, readdir, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { z } from 'zod'
import { MeshError } from '../../src/core/errors.ts'

const run = promisify(execFile)

/** Every part of the state that is compared; each is a list of entries without order. */
export type MachinePart =
  | 'link' | 'qdisc' | 'rule' | 'route' | 'setting' | 'namespace' | 'mount' | 'run file' | 'pin' | 'cgroup'
  | 'bpf link' | 'bpf program' | 'bpf map' | 'nftables' | 'process'

export type MachineState = Readonly<Record<MachinePart, readonly string[]>>

/** Settings of the host's own network namespace that redirection and virtual nodes use in theirs. */
const watchedSettings = [
  'net/ipv4/tcp_fwmark_accept', 'net/ipv4/ip_forward', 'net/ipv4/ip_nonlocal_bind', 'net/ipv4/conf/all/rp_filter',
  'net/ipv4/conf/default/rp_filter', 'net/ipv4/conf/all/route_localnet', 'net/ipv6/conf/all/forwarding',
  'net/ipv6/conf/all/disable_ipv6', 'net/ipv6/conf/default/accept_dad',
]

/** Sources of ours that a runtime is asked to run, and programs of ours. */
const ownSources = new Set(['sidestep.ts', 'ztunnel.ts', 'waypoint.ts', 'local-daemon.ts'])
const ownPrograms = new Set(['sidestep', 'sandbox-pause'])
/** Programs that come and go with services of the host: systemd's device and firewall filters. */
const foreignPrograms = /^sd_/

/**
 * The machine as it is now: the host's links, queueing disciplines, rules, routes, settings, network namespaces with a
 * process in them, mounts, everything under /run/sidestep and /sys/fs/bpf/sidestep, cgroups named after us, BPF links,
 * programs and maps, nftables, and our processes. Needs root and bpftool; COMMAND_FAILED if a tool cannot be run.
 */
export async function snapshotMachine(): Promise<MachineState> {
  const [links, qdiscs, rules, routes, settings, namespaces, mounts] = await Promise.all([
    hostLinks(), textLines('tc', ['qdisc', 'show']), bothFamilies(['rule', 'show']), hostRoutes(), hostSettings(),
    networkNamespaces(), hostMounts(),
  ])
  const [runFiles, pins, cgroups, bpf, nftables, processes] = await Promise.all([
    listTree('/run/sidestep'), listTree('/sys/fs/bpf/sidestep'), ownCgroups(), bpfObjects(), nftTables(), ownProcesses(),
  ])
  return {
    link: links, qdisc: qdiscs, rule: rules, route: routes, setting: settings, namespace: namespaces, mount: mounts,
    'run file': runFiles, pin: pins, cgroup: cgroups, nftables, process: processes, ...bpf,
  }
}

export interface DiffOptions {
  /** Differences that are not this test's: another instance that comes and goes meanwhile. */
  readonly ignore?: RegExp
}

/** What appeared and what vanished, one line each: `namespace appeared: 4026532178 held by 9087 ...`. Empty if nothing. */
export function diffMachine(before: MachineState, after: MachineState, options: DiffOptions = {}): string[] {
  const lines: string[] = []
  for (const part of Object.keys(before) as MachinePart[]) {
    for (const entry of surplus(before[part], after[part])) lines.push(`${part} vanished: ${entry}`)
    for (const entry of surplus(after[part], before[part])) lines.push(`${part} appeared: ${entry}`)
  }
  return lines.filter((line) => options.ignore === undefined || !options.ignore.test(line))
}

/** Entries of `list` beyond those of `other`; equal entries are counted, not merged. */
function surplus(list: readonly string[], other: readonly string[]): string[] {
  const counts = new Map<string, number>()
  for (const entry of other) counts.set(entry, (counts.get(entry) ?? 0) + 1)
  return list.filter((entry) => {
    const left = counts.get(entry) ?? 0
    counts.set(entry, left - 1)
    return left <= 0
  })
}

/**
 * Waits until the machine is as it was and returns what still differs after `settleMs`. The kernel frees namespaces and
 * programs some time after their last user, so a single look would see ghosts.
 */
export async function differencesFrom(
  before: MachineState,
  options: DiffOptions & { readonly settleMs?: number } = {},
): Promise<string[]> {
  const deadline = Date.now() + (options.settleMs ?? 5_000)
  for (;;) {
    const differences = diffMachine(before, await snapshotMachine(), options)
    if (differences.length === 0 || Date.now() >= deadline) return differences
    await sleep(100)
  }
}

/** Only what appeared since. What vanished was a ghost of an earlier test, or somebody else's. */
export async function leftoversSince(before: MachineState, settleMs = 10_000): Promise<string[]> {
  return (await differencesFrom(before, { settleMs, ignore: /^[a-z ]+ vanished: / })).toSorted()
}

/** These tools walk /proc or kernel ids, and give up where something ends under their eyes: then they are asked again. */
const attempts = 5

async function output(file: string, args: readonly string[], attempt = 1): Promise<string> {
  try {
    return (await run(file, [...args], { maxBuffer: 1 << 26 })).stdout
  } catch (cause) {
    if (attempt < attempts) {
      await sleep(50)
      return output(file, args, attempt + 1)
    }
    throw new MeshError('COMMAND_FAILED', `${file} ${args.join(' ')} failed`, { cause })
  }
}

async function textLines(file: string, args: readonly string[]): Promise<string[]> {
  return (await output(file, args)).split('\n').map((line) => line.trim()).filter((line) => line !== '')
}

async function jsonOf<T>(schema: z.ZodType<T>, file: string, args: readonly string[]): Promise<T> {
  // Some of these tools print nothing at all where others print an empty list.
  return schema.parse(JSON.parse((await output(file, args)).trim() || '[]'))
}

const linkSchema = z.array(
  z.object({ ifname: z.string(), mtu: z.int(), linkinfo: z.object({ info_kind: z.string().optional() }).optional() }),
)

async function hostLinks(): Promise<string[]> {
  const links = await jsonOf(linkSchema, 'ip', ['-j', '-d', 'link', 'show'])
  return links.map((link) => `${link.ifname} (${link.linkinfo?.info_kind ?? 'device'}, mtu ${link.mtu})`)
}

async function bothFamilies(args: readonly string[]): Promise<string[]> {
  const [four, six] = await Promise.all([textLines('ip', ['-4', ...args]), textLines('ip', ['-6', ...args])])
  return [...four.map((line) => `IPv4 ${line}`), ...six.map((line) => `IPv6 ${line}`)]
}

async function hostRoutes(): Promise<string[]> {
  const lines = await bothFamilies(['route', 'show', 'table', 'all'])
  // Routes from router advertisements count down.
  return lines.map((line) => line.replace(/ expires \d+sec/, ''))
}

async function hostSettings(): Promise<string[]> {
  return Promise.all(watchedSettings.map(async (name) => `${name} = ${(await readIfThere(join('/proc/sys', name))) ?? 'absent'}`))
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch {
    // Gone between listing and reading, or this kernel never had it: both mean "not there".
    return undefined
  }
}

const namespaceSchema = z.object({
  namespaces: z.array(z.object({ ns: z.int(), pid: z.int().nullable(), command: z.string().nullable() })),
})

async function networkNamespaces(): Promise<string[]> {
  const { namespaces } = await jsonOf(namespaceSchema, 'lsns', ['--json', '--type', 'net', '--output', 'NS,PID,COMMAND'])
  return namespaces.map(({ ns, pid, command }) => `${ns} held by ${pid ?? 'nobody'} ${command ?? ''}`.trimEnd())
}

async function hostMounts(): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).trim().split('\n')
  return lines.map((line) => {
    const [before = '', after = ''] = line.split(' - ')
    const [, , , root, target] = before.split(' ')
    const [type, source] = after.split(' ')
    return `${target} (${type} ${source}${root})`
  })
}

/** Everything below a directory; the directory itself may stay empty, because instances that run side by side share it. */
async function listTree(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { recursive: true })
    return entries.map((entry) => join(directory, entry))
  } catch {
    // Not there, or a subdirectory vanished while it was read; a change is seen by the next look.
    return []
  }
}

async function ownCgroups(): Promise<string[]> {
  const mounts = await hostMounts()
  const roots = mounts.filter((mount) => mount.includes('(cgroup2 ')).map((mount) => mount.split(' ')[0] ?? '')
  const names = await Promise.all(roots.map(async (root) => (await readdir(root)).map((name) => join(root, name))))
  return names.flat().filter((path) => path.includes('sidestep'))
}

// A bpftool older than the kernel prints kinds that it has no name for as numbers (tcx links, for one).
const kind = z.union([z.string(), z.int()]).optional()
const programSchema = z.array(z.object({ id: z.int(), type: kind, name: z.string().optional() }))
const bpfLinkSchema = z.array(z.object({ id: z.int(), type: kind, prog_id: z.int().optional(), attach_type: kind }))

async function bpfObjects(): Promise<Pick<MachineState, 'bpf link' | 'bpf program' | 'bpf map'>> {
  // One after the other: bpftool shows the helpers that a bpftool beside it has loaded.
  const programs = await jsonOf(programSchema, 'bpftool', ['-j', 'prog', 'show'])
  const links = await jsonOf(bpfLinkSchema, 'bpftool', ['-j', 'link', 'show'])
  const maps = await jsonOf(programSchema, 'bpftool', ['-j', 'map', 'show'])
  const names = new Map(programs.map((program) => [program.id, program.name ?? 'unnamed']))
  return {
    'bpf program': programs.filter(isNotForeign).map(({ id, type, name }) => `${name ?? 'unnamed'} (${type}, id ${id})`),
    'bpf link': links.map((link) => {
      return `${names.get(link.prog_id ?? 0) ?? 'unknown'} (${link.type} ${link.attach_type ?? ''}, id ${link.id})`
    }),
    'bpf map': maps.filter(isNotForeign).map(({ id, type, name }) => `${name ?? 'unnamed'} (${type}, id ${id})`),
  }
}

function isNotForeign(object: { readonly name?: string | undefined }): boolean {
  return !foreignPrograms.test(object.name ?? '')
}

async function nftTables(): Promise<string[]> {
  const places = ['/usr/sbin/nft', '/sbin/nft']
  const found = await Promise.all(places.map((place) => access(place).then(() => place, () => undefined)))
  const nft = found.find((place) => place !== undefined)
  return nft === undefined ? [] : textLines(nft, ['list', 'tables'])
}

async function ownProcesses(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
  const processes = await Promise.all(
    pids.map(async (pid) => {
      const args = ((await readIfThere(`/proc/${pid}/cmdline`)) ?? '').split('\0')
      return isOwnCommand(args) ? [`${pid} ${args.join(' ').trim()}`] : []
    }),
  )
  return processes.flat()
}

/**
 * Whether a command line is one of ours: it runs one of our programs or sources, or names something under /run/sidestep.
 * A path alone is not enough: a checkout may well be called sidestep, and then every editor and compiler would match.
 */
export function isOwnCommand(args: readonly string[]): boolean {
  if (ownPrograms.has(basename(args[0] ?? ''))) return true
  return args.some((arg) => ownSources.has(basename(arg)) || arg.includes('/run/sidestep'))
}
