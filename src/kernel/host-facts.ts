// Reads from this machine what features.ts judges: /proc, /sys and the native probe. Changes nothing. Must never fail for
// something that is merely missing: that is what the table is there to say.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { get } from 'node:http'
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
  const bpffs = mounts.find((mount) => mount.type === 'bpf')?.path
  const cgroup2 = mounts.find((mount) => mount.type === 'cgroup2')?.path
  const limits = read(`${root}/proc/self/limits`)
  const jit = read(`${root}/proc/sys/net/core/bpf_jit_enable`).trim()
  return {
    release: release(),
    machine: machine(),
    hasBtf: existsSync(`${root}/sys/kernel/btf/vmlinux`),
    cgroup2,
    hasCgroupV1: mounts.some((mount) => mount.type === 'cgroup'),
    bpffs,
    capabilities: parseCapabilities(read(`${root}/proc/self/status`)),
    openFilesLimit: parseHardLimit(limits, 'Max open files'),
    memlockLimitBytes: parseHardLimit(limits, 'Max locked memory'),
    bpfJit: jit === '' ? undefined : Number(jit),
    hasFwmarkAccept: existsSync(`${root}/proc/sys/net/ipv4/tcp_fwmark_accept`),
    ulps: read(`${root}/proc/sys/net/ipv4/tcp_available_ulp`).split(/\s+/).filter((each) => each !== ''),
    answers: await probe.probeKernel(),
    attached: cgroup2 === undefined ? [] : probe.cgroupPrograms(cgroup2),
    links: list(`${root}/sys/class/net`),
    pins: bpffs === undefined ? [] : ['', '/tc/globals'].flatMap((below) => list(`${root}${bpffs}${below}`)),
    cniFiles: list(`${root}/etc/cni/net.d`),
    kubeProxyMode: root === '' ? await askKubeProxy() : undefined,
  }
}

const kubeProxyPort = 10_249
const kubeProxyTimeoutMs = 500

/** It says its mode on loopback; undefined where nobody does, or not as it would. */
export function askKubeProxy(port = kubeProxyPort): Promise<string | undefined> {
  return new Promise((resolve) => {
    const asked = get({ host: '127.0.0.1', port, path: '/proxyMode', agent: false, signal: AbortSignal.timeout(kubeProxyTimeoutMs) }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => {
        text += chunk
        if (text.length > 100) response.destroy()
      })
      response.on('error', () => resolve(undefined))
      response.on('close', () => resolve(response.statusCode === 200 && /^[a-z]{1,20}$/.test(text.trim()) ? text.trim() : undefined))
    })
    asked.on('error', () => resolve(undefined))
  })
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return [] // not there, which says something too
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
