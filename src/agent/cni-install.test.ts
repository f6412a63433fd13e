import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { entryText, hasEntry, pluginType, withEntry } from './cni-config-text.ts'
import { activeConfig, chain, unchain } from './cni-files.ts'
import { CniInstaller, type CniInstallOptions, type CniState } from './cni-install.ts'
import { writeNamespaces } from './cni-namespaces.ts'
import { removeFromNode } from './cni-remove.ts'

const entry = { socket: '/run/s/cni.sock', namespaces: '/var/lib/s/n.json', timeoutMs: 20_000, exempt: ['sidestep-system'] }
const list = (name: string): string => `{\n  "cniVersion": "1.0.0",\n  "name": "${name}",\n  "plugins": [\n    { "type": "bridge", "mtu": 1.50e3 }\n  ]\n}\n`
const single = '{"cniVersion":"0.3.1",  "name":"one","type":"bridge"}\n'

const soon = { timeout: 10_000 }
let directory: string
let conf: string
let bin: string
let executable: string
const installers: CniInstaller[] = []

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'cnii-'))
  conf = join(directory, 'net.d')
  bin = join(directory, 'bin')
  executable = join(directory, 'image-plugin')
  await mkdir(conf)
  await mkdir(bin)
  await writeFile(executable, 'the plugin')
})
afterEach(async () => {
  for (const installer of installers.splice(0)) await installer.close()
  await rm(directory, { recursive: true })
})

const put = (name: string, text: string): Promise<void> => writeFile(join(conf, name), text)
const get = (name: string): Promise<string> => readFile(join(conf, name), 'utf8')
const names = async (): Promise<string[]> => (await readdir(conf)).sort()

async function install(options: Partial<CniInstallOptions> = {}): Promise<CniInstaller> {
  const installer = new CniInstaller({ executable, binDirectory: bin, confDirectory: conf, entry, mayWrite: async () => true, logger: silentLogger, ...options })
  installers.push(installer)
  await installer.start()
  return installer
}

const remove = (more: object = {}): ReturnType<typeof removeFromNode> => removeFromNode({
  confDirectory: conf, binDirectory: bin, socket: join(directory, 'run/cni.sock'), namespaces: join(directory, 'state/namespaces.json'), logger: silentLogger, graceMs: 10,
  crioSocket: join(directory, 'crio.sock'), cacheDirectory: join(directory, 'results'), ...more,
})

describe('the chain', () => {
  test('is the first file that a runtime takes, and no other', async () => {
    await put('05-broken.conflist', '{"plugins": [')
    await put('06-empty.conf', '{}')
    await put('10-a.conflist', list('a'))
    await put('20-b.conflist', withEntry(list('b'), entry))
    await put('00-readme.txt', 'no')
    await mkdir(join(conf, '01-directory.conflist'))
    expect(await chain(conf, entry)).toEqual({ file: '10-a.conflist', isChanged: true })
    expect(await get('10-a.conflist')).toBe(withEntry(list('a'), entry))
    expect(await get('20-b.conflist')).toBe(list('b'))
    expect(await chain(conf, entry)).toEqual({ file: '10-a.conflist', isChanged: false })
  })

  test('keeps mode, owner and link of its file', async () => {
    await mkdir(join(directory, 'elsewhere'))
    await writeFile(join(directory, 'elsewhere/real.conflist'), list('a'))
    await chmod(join(directory, 'elsewhere/real.conflist'), 0o640)
    // Only root may give a file away.
    if (process.getuid?.() === 0) await chown(join(directory, 'elsewhere/real.conflist'), 1234, 1235)
    const before = await stat(join(directory, 'elsewhere/real.conflist'))
    await symlink('../elsewhere/real.conflist', join(conf, '10-a.conflist'))
    await chain(conf, entry)
    const { mode, uid, gid } = await stat(join(directory, 'elsewhere/real.conflist'))
    expect([mode & 0o7777, uid, gid]).toEqual([0o640, before.uid, before.gid])
    expect(hasEntry(await readFile(join(directory, 'elsewhere/real.conflist'), 'utf8'))).toBe(true)
    await unchain(conf)
    expect(await readFile(join(directory, 'elsewhere/real.conflist'), 'utf8')).toBe(list('a'))
  })

  test.each(['10-a.conf', '10-a.json'])('of a single plugin is a list made of it: %s, and back', async (name) => {
    await put(name, single)
    await put('10-a.zz.conflist', list('other'))
    expect(await chain(conf, entry)).toEqual({ file: `${name}.conflist`, isChanged: true })
    expect((await activeConfig(conf))?.name).toBe(`${name}.conflist`)
    expect(JSON.parse(await get(`${name}.conflist`))).toEqual({ cniVersion: '0.3.1', name: 'one', plugins: [JSON.parse(single), JSON.parse(entryText(entry))] })
    await unchain(conf)
    expect(await names()).toEqual([name, '10-a.zz.conflist'])
    expect(await get(name)).toBe(single)
  })

  test('of a single plugin that is written anew is made anew', async () => {
    await put('10-a.conf', single)
    await chain(conf, entry)
    const newer = single.replace('bridge', 'calico')
    await put('10-a.conf', newer)
    expect(await chain(conf, entry)).toEqual({ file: '10-a.conf.conflist', isChanged: true })
    expect(await get('10-a.conf.conflist')).toContain('calico')
    await unchain(conf)
    expect(await names()).toEqual(['10-a.conf'])
    expect(await get('10-a.conf')).toBe(newer)
  })

  test('of a single plugin that somebody made their own stays a list', async () => {
    await put('10-a.conf', single)
    await chain(conf, entry)
    await put('10-a.conf.conflist', (await get('10-a.conf.conflist')).replace('bridge', 'macvlan'))
    await unchain(conf)
    expect(await names()).toEqual(['10-a.conf.conflist'])
    expect(JSON.parse(await get('10-a.conf.conflist')).plugins).toEqual([{ ...JSON.parse(single), type: 'macvlan' }])
  })

  test('cannot be where there is no network, or an older one', async () => {
    await expect(chain(conf, entry)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    await expect(chain(join(directory, 'nowhere'), entry)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    await put('10-a.conflist', list('a').replace('1.0.0', '0.2.0'))
    await expect(chain(conf, entry)).rejects.toThrow('10-a.conflist cannot be chained')
    await put('05-latin.conflist', '')
    await writeFile(join(conf, '05-latin.conflist'), Buffer.from([0x7b, 0xff, 0x7d]))
    await expect(chain(conf, entry)).rejects.toMatchObject({ code: 'BAD_CONFIG' })
    expect(await get('10-a.conflist')).toContain('0.2.0')
  })
})

describe('the installer', () => {
  test('has the executable there before the chain names it', async () => {
    await put('10-a.conflist', list('a'))
    await rm(bin, { recursive: true })
    await writeFile(bin, 'a file where a directory should be')
    const installer = await install()
    expect(installer.state.t).toBe('waiting')
    expect(await get('10-a.conflist')).toBe(list('a'))
    await rm(bin)
    await expect.poll(() => installer.state, soon).toEqual({ t: 'chained', file: '10-a.conflist' })
    const { mode } = await stat(join(bin, pluginType))
    expect([mode & 0o777, await readFile(join(bin, pluginType), 'utf8')]).toEqual([0o755, 'the plugin'])
  })

  test('puts back what others take away: entry, file order, executable', async () => {
    await put('10-a.conflist', list('a'))
    const installer = await install({ pollMs: 60_000 })
    await put('10-a.conflist', list('rewritten'))
    await expect.poll(() => get('10-a.conflist'), soon).toBe(withEntry(list('rewritten'), entry))
    await put('.tmp', list('new'))
    await rename(join(conf, '.tmp'), join(conf, '05-new.conflist'))
    await expect.poll(() => get('05-new.conflist'), soon).toBe(withEntry(list('new'), entry))
    await expect.poll(() => get('10-a.conflist'), soon).toBe(list('rewritten'))
    await rm(join(conf, '05-new.conflist'))
    await expect.poll(() => get('10-a.conflist'), soon).toBe(withEntry(list('rewritten'), entry))
    await rm(join(bin, pluginType))
    await expect.poll(() => readdir(bin), soon).toEqual([pluginType])
    expect(installer.state).toEqual({ t: 'chained', file: '10-a.conflist' })
  })

  test('waits for a network that comes later, also where there is no directory yet', async () => {
    await rm(conf, { recursive: true })
    const states: CniState[] = []
    await install({ pollMs: 20, onState: (state) => states.push(state) })
    await mkdir(conf)
    await put('10-a.conflist', list('a'))
    await expect.poll(() => states.map(({ t }) => t), soon).toEqual(['waiting', 'chained'])
  })

  test('does nothing while a newer agent is there, and goes on when that is gone', async () => {
    await put('10-a.conflist', list('a'))
    let isOwner = false
    const installer = await install({ mayWrite: async () => isOwner, pollMs: 20 })
    expect(installer.state).toEqual({ t: 'succeeded' })
    expect([await get('10-a.conflist'), await readdir(bin)]).toEqual([list('a'), []])
    isOwner = true
    await expect.poll(() => installer.state.t, soon).toBe('chained')
  })

  test('brings a new version of the executable and of the entry, and leaves both when it ends', async () => {
    await put('10-a.conflist', list('a'))
    await (await install()).close()
    await writeFile(executable, 'the PLUGIN')
    const newer = { ...entry, timeoutMs: 5 }
    await (await install({ entry: newer })).close()
    expect(await readFile(join(bin, pluginType), 'utf8')).toBe('the PLUGIN')
    expect(await get('10-a.conflist')).toBe(withEntry(list('a'), newer))
  })

  test('takes its time with somebody who does not want it', async () => {
    await put('10-a.conflist', list('a'))
    const warnings: string[] = []
    const logger = { ...silentLogger, warn: (_: unknown, message?: string) => void warnings.push(String(message)) }
    await install({ logger, patience: 3 })
    for (let i = 0; i < 2; i += 1) {
      await put('10-a.conflist', list(`a${i}`))
      await expect.poll(async () => hasEntry(await get('10-a.conflist')), soon).toBe(true)
    }
    await expect.poll(() => warnings, soon).toContainEqual(expect.stringContaining('again and again'))
    // A look that its own last write brought about.
    await new Promise((resolve) => setTimeout(resolve, 300))
    await put('10-a.conflist', list('z'))
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(hasEntry(await get('10-a.conflist'))).toBe(false)
  })

  test('clears away what one that died left behind', async () => {
    await put('10-a.conflist', list('a'))
    const stale = join(conf, '10-a.conflist.abcd.sidestep-tmp')
    await writeFile(stale, 'x')
    await utimes(stale, 1, 1)
    await put('10-a.conflist.ef01.sidestep-tmp', 'being written')
    await install()
    expect(await names()).toEqual(['10-a.conflist', '10-a.conflist.ef01.sidestep-tmp'])
  })
})

describe('removal', () => {
  test('leaves the node as it was, byte by byte, and may be repeated', async () => {
    await put('10-a.conf', single)
    await put('20-b.conflist', list('b'))
    await writeNamespaces(join(directory, 'state/namespaces.json'), new Map([['shop', 'closed']]))
    await mkdir(join(directory, 'run'))
    await writeFile(join(directory, 'run/cni.sock'), '')
    await (await install()).close()
    expect(await remove()).toEqual([])
    expect(await names()).toEqual(['10-a.conf', '20-b.conflist'])
    expect([await get('10-a.conf'), await get('20-b.conflist')]).toEqual([single, list('b')])
    expect((await readdir(directory)).sort()).toEqual(['bin', 'image-plugin', 'net.d'])
    expect(await readdir(bin)).toEqual([])
    expect(await remove()).toEqual([])
  })

  test('keeps the executable while a chain that cannot be changed names it', async () => {
    await put('10-a.conflist', list('a'))
    await (await install()).close()
    await rename(conf, `${conf}.away`)
    await writeFile(conf, 'not a directory')
    expect(await remove()).toEqual([{ path: conf, because: expect.any(String) }])
    expect(await readdir(bin)).toEqual([pluginType])
    await rm(conf)
    await rename(`${conf}.away`, conf)
    expect(await remove()).toEqual([])
    expect(await readdir(bin)).toEqual([])
  })

  test('keeps the executable for pods that CRI-O started with it', async () => {
    await put('10-a.conflist', list('a'))
    await (await install()).close()
    await mkdir(join(directory, 'results'))
    const cached = join(directory, 'results/a-1-eth0')
    await writeFile(cached, JSON.stringify({ kind: 'cniCacheV1', config: Buffer.from(withEntry(list('a'), entry)).toString('base64') }))
    await writeFile(join(directory, 'results/junk'), 'x')
    await writeFile(join(directory, 'crio.sock'), '')
    expect(await remove()).toEqual([{ path: join(bin, pluginType), because: expect.stringContaining('1 pods') }])
    expect(await get('10-a.conflist')).toBe(list('a'))
    await rm(cached)
    expect(await remove()).toEqual([])
    expect(await readdir(bin)).toEqual([])
  })
})
