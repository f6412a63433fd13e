// Clients and servers that nobody here wrote, of pinned versions, built or unpacked once below build/foreign: what passes with them is
// no agreement of ours with ourselves. Nothing is installed on the host.
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { goBuild } from './go.ts'
import { unpackDebianPackages, unpackOnce } from './unpack.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const store = join(root, 'build/foreign')
const timeoutMs = 600_000
const pythonPackages = ['websockets==15.0.1', 'PyMySQL==1.1.2', 'h2==4.3.0'] as const

/** gRPC's own interop client and server, and h2spec: of the versions in test/foreign/go.mod. */
export interface GoPrograms {
  readonly grpcClient: string
  readonly grpcServer: string
  readonly h2spec: string
}

export async function goPrograms(): Promise<GoPrograms> {
  const directory = join(store, 'go-programs-1')
  await unpackOnce(directory, true, async (into) => {
    const packages = ['google.golang.org/grpc/interop/client', 'google.golang.org/grpc/interop/server', 'github.com/summerwind/h2spec/cmd/h2spec']
    await goBuild(join(root, 'test/foreign'), ['-trimpath', '-o', `${into}/`, ...packages])
  })
  return { grpcClient: join(directory, 'client'), grpcServer: join(directory, 'server'), h2spec: join(directory, 'h2spec') }
}

/** A Python with the packages `websockets`, `pymysql` and `h2`. */
export async function python(): Promise<string> {
  const directory = join(store, 'python-1')
  // A virtual environment knows its own path, so it is made where it stays; pip itself is safe to run twice.
  if ((await runCommand(['env', join(directory, 'bin/python'), '-c', 'import websockets, pymysql, h2'])).code !== 0) {
    await mustRun(['python3', '-m', 'venv', directory], { timeoutMs })
    await mustRun([join(directory, 'bin/pip'), 'install', '-q', ...pythonPackages], { timeoutMs })
  }
  return join(directory, 'bin/python')
}

/** MariaDB's server, whose protocol lets the server speak first. `command` starts with the environment that finds its libraries. */
export async function mariadb(): Promise<{ readonly command: readonly string[]; readonly share: string }> {
  const directory = join(store, 'mariadb')
  await unpackOnce(directory, true, async (into) => {
    await unpackDebianPackages(['mariadb-server-core', 'liburing2', 'libaio1'], into)
  })
  const binary = join(directory, 'usr/sbin/mariadbd')
  chmodSync(binary, 0o755)
  const libraries = ['usr/lib/x86_64-linux-gnu', 'usr/lib/aarch64-linux-gnu', 'lib/x86_64-linux-gnu', 'lib/aarch64-linux-gnu'].map((each) => join(directory, each)).join(':')
  return { command: ['env', `LD_LIBRARY_PATH=${libraries}`, binary], share: join(directory, 'usr/share/mysql') }
}
