// Reads from this machine what features.ts judges: /proc, /sys and the native probe. Changes nothing. Must never fail for
// something that is merely missing: that is what the table is there to say.
import { existsSync, readFileSync } from 'node:fs'
import { machine, release } from 'node:os'
import type { Feature } from '../model/feature.ts'
import type { HostFacts } from './features.ts'
import { features } from './features.ts'
import type { Native } from './native.ts'
import { native } from './native.ts'

/** The table for this machine. Throws NATIVE_MISSING if the addon is not built. */
export async function surveyHost(): Promise<Feature[]> {
  return features(await readHostFacts(native()))
}

/** Everything about this machine; `root` stands in front of /proc and /sys, for tests. */
export async function readHostFacts(probe: Pick<Native, 'probeKernel' | 'cgroupPrograms'>, root = ''): Promise<HostFacts> {
  const mounts = parseMounts(read(`${root}/proc/mounts`))
  const cgroup2 = mounts.find((mount) => mount.type === 'cgroup2')?.path
  const limits = read(`${root}/proc/self/limits`)
  const jit = read(`${root}/proc/sys/net/core/bpf_jit_enable`).trim()
  return {
    release: release(),
    machine: machine(),
    hasBtf: existsSync(`${root}/sys/kernel/btf/vmlinux`),
    cgroup2,
    hasCgroupV1: mounts.some((mount) => mount.type === 'cgroup'),
    bpffs: mounts.find((mount) => mount.type === 'bpf')?.path,
    capabilities: parseCapabilities(read(`${root}/proc/self/status`)),
    openFilesLimit: parseHardLimit(limits, 'Max open files'),
    memlockLimitBytes: parseHardLimit(limits, 'Max locked memory'),
    bpfJit: jit === '' ? undefined : Number(jit),
    hasFwmarkAccept: existsSync(`${root}/proc/sys/net/ipv4/tcp_fwmark_accept`),
    ulps: read(`${root}/proc/sys/net/ipv4/tcp_available_ulp`).split(/\s+/).filter((each) => each !== ''),
    answers: await probe.probeKernel(),
    attached: cgroup2 === undefined ? [] : probe.cgroupPrograms(cgroup2),
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return '' // a file that this kernel does not have, or does not show us, is an answer too
  }
}

/** Lines of /proc/mounts; spaces and the like are octal escapes there. */
export function parseMounts(text: string): { path: string; type: string }[] {
  return text.split('\n').flatMap((line) => {
    const [, path, type] = line.split(' ')
    if (path === undefined || type === undefined) return []
    return [{ path: path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))), type }]
  })
}

/** The effective capabilities in /proc/PID/status; none if the line is missing. */
export function parseCapabilities(status: string): bigint {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1]
  return hex === undefined ? 0n : BigInt(`0x${hex}`)
}

/** The hard limit of one row in /proc/PID/limits; Infinity for unlimited, 0 if the row is missing. */
export function parseHardLimit(limits: string, name: string): number {
  const line = limits.split('\n').find((each) => each.startsWith(name))
  const hard = line?.slice(name.length).trim().split(/\s+/)[1]
  if (hard === undefined) return 0
  return hard === 'unlimited' ? Infinity : Number(hard)
}
