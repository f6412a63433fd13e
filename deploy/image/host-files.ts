// What an image needs of the machine that builds it: shared libraries, as the loader finds them, and of which Debian package each
// is, so that scanners know what they look at and licences travel along. Only reads.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import type { Entry } from './files.ts'

const run = (program: string, ...args: string[]): string => execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], env: { LC_ALL: 'C', PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } })

/** Where these programs' libraries and their loader are on this machine; absolute, as the loader writes them. */
export function librariesOf(programs: readonly string[]): string[] {
  const found = programs.flatMap((program) => run('ldd', program).split('\n').flatMap((line) => {
    if (line.includes('not found')) throw new Error(`${program} needs a library that is not here: ${line.trim()}`)
    const [path] = /\/\S+(?= \(0x)/.exec(line) ?? []
    return path === undefined ? [] : [path]
  }))
  return [...new Set(found)].sort()
}

/** Files at the path where they are asked for, whatever they are called here; and what their packages say of themselves. */
export function hostFiles(paths: readonly string[]): Entry[] {
  const packages = new Set<string>()
  const files = paths.map((path): Entry => {
    const from = realpathSync(path)
    packages.add(packageOf(from))
    // /lib and the like are links into /usr wherever /usr is merged.
    return { path: path.replace(/^\/(lib|lib64|bin|sbin)\//, '/usr/$1/'), from, mode: 0o755 }
  })
  return [...files, ...[...packages].flatMap(packageFiles)]
}

/** Roots of certificates as the package brings them: not those that somebody added on this machine. */
export function certificateRoots(): Entry[] {
  const directory = '/usr/share/ca-certificates/mozilla'
  const names = readdirSync(directory).filter((name) => name.endsWith('.crt')).sort()
  const bundle = names.map((name) => readFileSync(join(directory, name), 'utf8').trim()).join('\n')
  return [{ path: '/etc/ssl/certs/ca-certificates.crt', content: `${bundle}\n` }, ...packageFiles('ca-certificates')]
}

function packageOf(file: string): string {
  for (const path of [file, file.replace(/^\/usr\//, '/')]) {
    try {
      return run('dpkg-query', '-S', path).split(':')[0] ?? ''
    } catch {
      // Packages of before the merge of /usr know it by the other name.
    }
  }
  throw new Error(`${file} is of no Debian package: build the image on Debian, or with deploy/image/Containerfile`)
}

/** Where scanners of images look for packages that have no dpkg beside them; and their licence. */
function packageFiles(name: string): Entry[] {
  const copyright = `/usr/share/doc/${name}/copyright`
  return [
    { path: `/var/lib/dpkg/status.d/${name}`, content: run('dpkg-query', '-s', name) },
    ...(existsSync(copyright) ? [{ path: copyright, from: realpathSync(copyright) }] : []),
  ]
}
