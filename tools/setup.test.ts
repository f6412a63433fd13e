// setup.sh in a scratch checkout with stand-ins for apt, dpkg and npm that write down how they were called: what is done
// when, what is left out, and what is said when something fails. The real programs run in every `npm test`.
import { spawn, spawnSync } from 'node:child_process'
import { appendFileSync, chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'

let dir: string

const stubs = {
  'node-stub': `[ "$1" != --version ] || exec echo vMAJOR.1.0
    [[ "$1" != *go.ts ]] || { [ -n "\${GO:-}" ] && exec echo "$GO"; echo 'no wheel' >&2; exit 1; }
    [ -z "\${FEATURES:-}" ] || { printf "$FEATURES"; exit 1; }`,
  'dpkg-query': `for p in "$@"; do case $p in -*|*'$'*) ;; *) [ "$p" = "\${ABSENT:-}" ] || echo "$p installed" ;; esac; done`,
  'apt-get': `echo "apt-get $*" >> "\${0%/*}/../calls"; [ -z "\${APT_FAILS:-}" ] || { echo 'E: no such mirror'; exit 100; }`,
  npm: `echo "npm $*" >> "\${0%/*}/../calls"
    case "$1" in
      ci|install)
        [ -z "\${TELL_NODE:-}" ] || { found=$(command -v node); [[ $found == */.setup/* ]] || found=; echo "under $found" >> "\${0%/*}/../calls"; }
        [ -z "\${NPM_FAILS:-}" ] || { echo 'npm ERR! offline'; exit 1; }
        mkdir -p node_modules/.bin && touch node_modules/.package-lock.json
        for arch in x64 arm64; do
          node=node_modules/node-linux-$arch/bin/node
          mkdir -p "\${node%/*}"
          sed "s/MAJOR/\${NODE_MAJOR:-26}/" "\${0%/*}/node-stub" > $node
          chmod +x $node
        done ;;
      run)
        sleep "\${BUILD_SECONDS:-0}"
        [ -z "\${BUILD_FAILS:-}" ] || { echo 'connect.bpf.c:7: error: oh'; exit 1; }
        mkdir -p build/Release build/bpf && touch build/Release/sidestep.node build/bpf/connect.bpf.o ;;
    esac`,
}

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'sidestep-setup-'))
  for (const each of ['tools', 'native', 'bpf', 'stubs']) mkdirSync(join(dir, each))
  for (const each of ['setup.sh', 'preflight.sh']) copyFileSync(join(import.meta.dirname, each), join(dir, 'tools', each))
  for (const each of ['CMakeLists.txt', 'package.json', 'package-lock.json', 'native/addon.cc', 'bpf/connect.bpf.c']) writeFileSync(join(dir, each), '')
  for (const [name, body] of Object.entries(stubs)) {
    writeFileSync(join(dir, 'stubs', name), `#!/bin/bash\n${body}\n`)
    chmodSync(join(dir, 'stubs', name), 0o755)
  }
})

afterEach(() => rmSync(dir, { recursive: true }))

const environment = (env: Record<string, string>): NodeJS.ProcessEnv => ({ PATH: `${dir}/stubs:${process.env.PATH ?? ''}`, ...env })

function setup(env: Record<string, string> = {}, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const run = spawnSync('bash', [join(dir, 'tools/setup.sh'), ...args], { env: environment(env), encoding: 'utf8' })
  return { status: run.status, stdout: run.stdout, stderr: run.stderr }
}

/** The stand-ins' calls since the last look. */
function calls(): string[] {
  const path = join(dir, 'calls')
  if (!existsSync(path)) return []
  const lines = readFileSync(path, 'utf8').trim().split('\n')
  rmSync(path)
  return lines
}

const installs = (list: readonly string[]): string[] => list.map((each) => each.split(' ').slice(0, 2).join(' '))

describe('setup.sh', () => {
  test('a first run does everything, with numbered steps', () => {
    const { status, stdout, stderr } = setup()
    expect(stderr).toBe('')
    expect(status).toBe(0)
    const numbered = stdout.split('\n').filter((line) => line.startsWith('['))
    numbered.forEach((line, i) => expect(line).toMatch(new RegExp(`^\\[${i + 1}/${numbered.length}\\] `)))
    expect(stdout.trimEnd()).toMatch(/set-up: ready \(\d+\.\d s\)$/)
    expect(installs(calls())).toEqual(['npm ci', 'npm ci', 'npm run'])
  })

  test('a second run calls nothing and says one line', () => {
    setup()
    calls()
    const { status, stdout } = setup()
    expect(status).toBe(0)
    expect(stdout).toMatch(/^set-up: nothing to do \(\d+\.\d s\)\n$/)
    expect(calls()).toEqual([])
  })

  test('a changed lock file installs without deleting node_modules', () => {
    setup()
    calls()
    writeFileSync(join(dir, 'package-lock.json'), '{}')
    expect(setup().status).toBe(0)
    expect(installs(calls())[0]).toBe('npm install')
  })

  test('a changed source builds again and installs nothing', () => {
    setup()
    calls()
    appendFileSync(join(dir, 'bpf/connect.bpf.c'), 'int x;')
    expect(setup().status).toBe(0)
    expect(installs(calls())[0]).toBe('npm run')
  })

  test('only missing packages are installed', () => {
    expect(setup({ ABSENT: 'bpftool' }).status).toBe(0)
    const apt = calls().filter((each) => each.startsWith('apt-get'))
    expect(apt[0]).toMatch(/ update$/)
    expect(apt[1]).toMatch(/ install -y --no-install-recommends bpftool$/)
  })

  test('two at once: one works, the other waits and finds nothing to do', async () => {
    const one = spawn('bash', [join(dir, 'tools/setup.sh')], { env: environment({ BUILD_SECONDS: '1' }), stdio: 'ignore' })
    const ended = new Promise((resolve) => one.once('exit', resolve))
    while (!existsSync(join(dir, 'calls'))) await new Promise((resolve) => setTimeout(resolve, 20))
    const { status, stdout } = setup()
    expect(status).toBe(0)
    expect(stdout).toMatch(/waiting for it\nset-up: nothing to do/)
    expect(await ended).toBe(0)
    expect(installs(calls()).filter((each) => each === 'npm run')).toHaveLength(1)
  })

  test.each([
    ['apt-get', { ABSENT: 'clang', APT_FAILS: '1' }, 'E: no such mirror', /apt-get could not install clang, which/],
    ['npm', { NPM_FAILS: '1' }, 'npm ERR! offline', /npm could not fetch Node\.js, on which/],
    ['the build', { BUILD_FAILS: '1' }, 'connect.bpf.c:7: error: oh', /did not build; the full log is in .*build\.log/],
  ])('%s failing shows its last lines, then a sentence, and stamps nothing', (_, env: Record<string, string>, detail, sentence) => {
    const { status, stderr } = setup(env)
    expect(status).toBe(1)
    expect(stderr).toContain(detail)
    expect(stderr.trimEnd().split('\n').at(-1)).toMatch(sentence)
    calls()
    expect(setup().status).toBe(0)
    expect(calls()).not.toEqual([])
  })

  test('a Node.js that arrives too old is noticed, and fetched again the next time', () => {
    const { status, stderr } = setup({ NODE_MAJOR: '18' })
    expect(status).toBe(1)
    expect(stderr).toContain('older than 24: v18.1.0')
    expect(setup().status).toBe(0)
  })

  test('a missing kernel feature is shown with its remedy, and looked at again the next time', () => {
    const table = 'pass  BTF      there\\nfail  sockops  EINVAL\\n      -> Boot another.\\npass  x  y\\n\\n2 pass, 0 warn, 1 fail.\\n'
    const { status, stderr } = setup({ FEATURES: table })
    expect(status).toBe(1)
    expect(stderr).toMatch(/^fail {2}sockops {2}EINVAL\n +-> Boot another\.\nset-up: this machine lacks .*\n$/)
    expect(setup({ FEATURES: 'Error: cannot load\\n' }).stderr).toMatch(/Error: cannot load\n(.*\n)*set-up: the kernel could not be asked/)
    expect(setup().status).toBe(0)
  })

  test('npm packages are installed under the Node.js that was fetched', () => {
    setup({ TELL_NODE: '1' })
    expect(calls().filter((each) => each.startsWith('under'))).toEqual(['under ', `under ${dir}/.setup/bin/node`])
  })

  test('a link to Node.js that npm took away comes back', () => {
    setup()
    calls()
    rmSync(join(dir, 'node_modules/.bin/node'))
    expect(setup().status).toBe(0)
    expect(calls()).toEqual([])
    expect(existsSync(join(dir, 'node_modules/.bin/node'))).toBe(true)
  })

  test('what the tests need comes on top, Go among it, and is noticed when it is gone', () => {
    setup()
    calls()
    const first = setup({ GO: 'true' }, '--tests')
    expect(first.stderr).toBe('')
    expect(first.stdout).toMatch(/\[7\/7\] Go \.\.\.\n +done in/)
    expect(setup({ GO: 'true' }, '--tests').stdout).toMatch(/^set-up: nothing to do/)
    writeFileSync(join(dir, '.setup/go'), '/nowhere/go\n')
    expect(setup({ GO: 'true' }, '--tests').stdout).toContain('Go ...')
  })

  test('Go that cannot be fetched is said', () => {
    const { status, stderr } = setup({}, '--tests')
    expect(status).toBe(1)
    expect(stderr.trimEnd().split('\n').at(-1)).toMatch(/Go could not be fetched, and/)
  })

  test('an unknown argument is refused', () => {
    expect(setup({}, '--fast')).toEqual({ status: 2, stdout: '', stderr: 'usage: tools/setup.sh [--tests]\n' })
  })
})
