// A machine of the test cluster: network, mount, PID, UTS and IPC namespaces with an init of their own, which look like a host to what
// runs in them. Everything of a machine ends with its init: processes, mounts, links. What it wrote to its disk stays for the next start.
import { spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../../src/core/errors.ts'
import type { CommandOptions, CommandResult } from '../../src/local/command.ts'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { endProcess, identify } from '../../src/local/process-identity.ts'
import { store } from './binaries.ts'

const startTimeoutMs = 10_000

/**
 * Run by bash as PID 1: $1 the cluster's directory, $2 this machine's, $3 its name, $4 where programs are kept. It stays, because a
 * machine needs somebody who reaps orphans; that is all it does then.
 */
const init = String.raw`
set -e
trap '' HUP INT TERM
mount --make-rprivate /
rm -f "$2/up"
mkdir -p "$2"/{etc,etc-work,opt/cni/bin,var/lib/kubelet,var/lib/containerd,var/lib/cni,var/log,var/tmp,var/cache,tunables}
ln -sfn /run "$2/var/run"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/cluster /run/programs /run/netns /run/lock /run/machine /run/cgroups
mount --bind "$1" /run/cluster
mount --bind "$2" /run/machine
mount --bind "$4" /run/programs
# A sysfs of its own shows its own links; the cgroups are the host's.
mount --rbind /sys/fs/cgroup /run/cgroups
mount -t sysfs sysfs /sys
mount --rbind /run/cgroups /sys/fs/cgroup
umount -l /run/cgroups
rmdir /run/cgroups
mount -t bpf bpf /sys/fs/bpf
mount -t overlay overlay -o "lowerdir=/etc,upperdir=/run/machine/etc,workdir=/run/machine/etc-work" /etc
mount --bind /run/machine/opt /opt
mount --bind /run/machine/var /var
# What kubelets want to set in the kernel, they find set: these are not the host's.
for tunable in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file="/run/machine/tunables/$(echo "$tunable" | tr '/=' '--')"
  echo "${'$'}{tunable#*=}" > "$file"
  [ ! -e "/proc/sys/${'$'}{tunable%=*}" ] || mount --bind "$file" "/proc/sys/${'$'}{tunable%=*}"
done
mount --make-rshared /
hostname "$3"
ip link set lo up
touch /run/machine/up
while :; do sleep infinity & wait $!; done
`

/** What programs in a machine have; nothing of who runs the tests. */
const environment: NodeJS.ProcessEnv = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LANG: 'C.UTF-8',
}

export class Machine {
  readonly name: string
  readonly #cluster: string
  readonly #directory: string

  /** `clusterDirectory` has a directory for each machine, below `machines/`. */
  constructor(name: string, clusterDirectory: string) {
    this.name = name
    this.#cluster = clusterDirectory
    this.#directory = join(clusterDirectory, 'machines', name)
  }

  get logs(): string {
    return join(this.#directory, 'logs')
  }

  /** Below this machine's own disk. */
  file(path: string): string {
    return join(this.#directory, path)
  }

  /** Process id of its init as the host sees it, or undefined while it is not up. */
  get init(): number | undefined {
    const outer = this.#outer()
    if (outer === undefined) return undefined
    try {
      return Number(readFileSync(`/proc/${outer}/task/${outer}/children`, 'utf8').trim().split(' ')[0]) || undefined
    } catch {
      // It ended meanwhile.
      return undefined
    }
  }

  /** Of its own names only, so that a machine is found again by whoever did not start it. */
  #outer(): number | undefined {
    return machineProcesses(this.#directory)[0]
  }

  async start(): Promise<void> {
    mkdirSync(this.logs, { recursive: true })
    rmSync(join(this.#directory, 'up'), { force: true })
    const log = openSync(join(this.logs, 'init.log'), 'a')
    const namespaces = ['--mount', '--uts', '--ipc', '--net', '--pid', '--fork', '--mount-proc', '--kill-child']
    const child = spawn('unshare', [...namespaces, 'bash', '-c', init, 'init', this.#cluster, this.#directory, this.name, store], {
      detached: true, stdio: ['ignore', log, log], env: environment, cwd: '/',
    })
    closeSync(log)
    let hasEnded = false
    child.on('exit', () => (hasEnded = true))
    child.on('error', () => (hasEnded = true))
    child.unref()
    const deadline = performance.now() + startTimeoutMs
    while (!existsSync(join(this.#directory, 'up')) || this.init === undefined) {
      if (hasEnded || performance.now() > deadline) {
        throw new MeshError('COMMAND_FAILED', `machine ${this.name} did not come up: ${readFileSync(join(this.logs, 'init.log'), 'utf8').slice(-2000)}`)
      }
      await sleep(10)
    }
  }

  /** As if its power went away. Returns when nothing of it runs. */
  async kill(): Promise<void> {
    for (const pid of machineProcesses(this.#directory)) {
      const outer = identify(pid)
      const inner = this.init
      const innerIdentity = inner === undefined ? undefined : identify(inner)
      if (outer) await endProcess(outer, 0)
      // Its init is told by the kernel; until that is gone, so may the rest not be.
      if (innerIdentity) await endProcess(innerIdentity, 0)
    }
    rmSync(join(this.#directory, 'up'), { force: true })
  }

  /** The command that runs `argv` in this machine, for whoever wants to start it himself. COMMAND_FAILED if it is not up. */
  entering(argv: readonly string[], namespaces: readonly string[] = ['-m', '-u', '-i', '-n', '-p']): string[] {
    const init = this.init
    if (init === undefined) throw new MeshError('COMMAND_FAILED', `machine ${this.name} is not up`)
    return ['nsenter', '-t', String(init), ...namespaces, '--', ...argv]
  }

  run(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return runCommand(this.entering(argv), { env: environment, ...options })
  }

  mustRun(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
    return mustRun(this.entering(argv), { env: environment, ...options })
  }

  /** A shell script with `set -e`, in the machine's network alone: it sees the host's files. */
  configureNetwork(script: string): Promise<string> {
    return mustRun([...this.entering(['sh', '-ec', script], ['-n'])])
  }

  /** Starts a program that stays. Its output is in `logs/NAME.log`. */
  async startService(name: string, argv: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<void> {
    const script = 'name=$1; shift; setsid "$@" </dev/null >>"/run/machine/logs/$name.log" 2>&1 & echo $! > "/run/service-$name.pid"'
    await this.mustRun(['sh', '-c', script, 'sh', name, ...argv], { env: { ...environment, ...env } })
  }

  /** Ends a service with SIGTERM and, if that takes more than five seconds, or at once with `signal` KILL, with SIGKILL. It may be gone already. */
  async stopService(name: string, signal: 'TERM' | 'KILL' = 'TERM'): Promise<void> {
    const script = 'pid=$(cat "/run/service-$1.pid" 2>/dev/null) || exit 0; kill -"$2" "$pid" 2>/dev/null || exit 0; for i in $(seq 50); do [ -d "/proc/$pid" ] || exit 0; sleep .1; done; kill -KILL "$pid"'
    await this.mustRun(['sh', '-c', script, 'sh', name, signal], { timeoutMs: 30_000 })
  }
}

/** The processes on the host that hold the machine with that directory. */
function machineProcesses(directory: string): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return basename(args[0] ?? '') === 'unshare' && args.includes(directory) ? [Number(pid)] : []
    } catch {
      // It ended while we looked.
      return []
    }
  })
}

/** Waits until `check` says something else than undefined. COMMAND_FAILED with `what`, and with what was seen instead, after `timeoutMs`. */
export async function eventually<T>(what: string, timeoutMs: number, check: () => Promise<T | undefined>, pauseMs = 100, seen: () => string = () => ''): Promise<T> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const found = await check()
    if (found !== undefined) return found
    if (performance.now() > deadline) throw new MeshError('COMMAND_FAILED', `waited ${timeoutMs / 1000} s in vain: ${what}${seen() === '' ? '' : `; instead ${seen()}`}`)
    await sleep(pauseMs)
  }
}
