// The CNI plugin itself, called as a runtime calls it, with the agent's real socket and real files.
import { access, readFile, writeFile } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { writeNamespaces } from '../../src/agent/cni-namespaces.ts'
import type { CniAnswer, CniRequest } from '../../src/agent/cni-server.ts'
import { callPlugin, Place, plugin, previousResult, type Ended } from './plugin.ts'

let place: Place
beforeEach(async () => {
  place = await Place.make()
})
afterEach(() => place[Symbol.asyncDispose]())

/** Of program headers in ELF. */
const loadedSegment = 1
const interpreterSegment = 3
const captured: CniAnswer = { ok: true, captured: true }

function refused({ code, stdout }: Ended): { cniVersion: string; code: number; msg: string; details?: string } {
  expect(code).toBe(1)
  return JSON.parse(stdout)
}

function passed({ code, stdout }: Ended): unknown {
  expect([code, stdout.slice(0, 300)]).toEqual([0, expect.stringMatching(/^\{/)])
  return JSON.parse(stdout)
}

describe('ADD', () => {
  test('asks the agent with all that the runtime said, and passes the result on', async () => {
    const asked: CniRequest[] = []
    await place.serve(async (request) => {
      asked.push(request)
      return captured
    })
    const ended = await place.call('ADD')
    expect(passed(ended)).toEqual(previousResult)
    expect(ended.stderr).toBe('')
    expect(asked).toEqual([{
      v: 1, command: 'ADD', namespace: 'shop', name: 'web-1', uid: 'uid-1', containerId: 'abc', netns: '/var/run/netns/cni-1',
      // The node's own end of the link is not the pod's address.
      ips: ['10.1.2.3', 'fd00:1::3'],
    }])
  })

  test('waits until the agent has decided', async () => {
    let isCaptured = false
    await place.serve(async () => {
      await new Promise((resolve) => setTimeout(resolve, 300))
      isCaptured = true
      return captured
    })
    passed(await place.call('ADD'))
    expect(isCaptured).toBe(true)
  })

  test('passes the result on byte by byte, whatever stands in it', async () => {
    await place.serve(async () => captured)
    const result = String.raw`{ "ips" : [ ],"x":1.50e+3, "cniVersion": "0.4.0" ,"deep":{"é":"\u00e9\n"} }`
    const { stdout } = await place.call('ADD', { config: JSON.stringify(place.config({ cniVersion: '0.4.0' })).replace(JSON.stringify(previousResult), result) })
    expect(stdout).toBe(`${result}\n`)
  })

  test.each(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])('says version %s where that was asked for', async (cniVersion) => {
    await place.serve(async () => captured)
    const { cniVersion: _, ...withoutVersion } = previousResult
    for (const prevResult of [previousResult, withoutVersion]) {
      expect(passed(await place.call('ADD', { config: place.config({ cniVersion, prevResult }) }))).toEqual({ ...previousResult, cniVersion })
    }
    expect(passed(await place.call('ADD', { config: place.config({ cniVersion, prevResult: {} }) }))).toEqual({ cniVersion })
  })

  test('a refusal holds the pod, with its reason', async () => {
    await place.serve(async () => ({ ok: false, because: 'the ztunnel of this node is not connected' }))
    const ended = await place.call('ADD')
    expect(refused(ended)).toEqual({ cniVersion: '1.0.0', code: 11, msg: 'Sidestep cannot capture pod shop/web-1 yet', details: 'the ztunnel of this node is not connected' })
    expect(ended.stderr).toMatch(/^sidestep-cni: ADD shop\/web-1: [^\n]+\n$/)
  })

  test.each([
    ['the agent says so', { ok: false, because: 'no ztunnel', failureMode: 'open' } as const, 'closed' as const],
    ['its namespace says so and the agent nothing', { ok: false, because: 'no ztunnel' } as const, 'open' as const],
  ])('a refusal lets a pod pass whose failure mode is open: %s', async (_, answer, mode) => {
    await writeNamespaces(place.namespaces, new Map([['shop', mode]]))
    await place.serve(async () => answer)
    const ended = await place.call('ADD')
    passed(ended)
    expect(ended.stderr).toContain('no ztunnel')
  })

  test('an agent that says closed holds the pod of an open namespace', async () => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'open']]))
    await place.serve(async () => ({ ok: false, because: 'no ztunnel', failureMode: 'closed' }))
    expect(refused(await place.call('ADD')).code).toBe(11)
  })

  test('an agent that fails holds the pod', async () => {
    await place.serve(() => Promise.reject(new Error('it is\nbroken')))
    expect(refused(await place.call('ADD')).details).toBe('it is broken')
  })
})

describe('with nobody behind the socket', () => {
  test.each([['closed', 11], ['open', 0], ['absent', 0]] as const)('a namespace that is %s: %d', async (mode, code) => {
    await writeNamespaces(place.namespaces, new Map(mode === 'absent' ? [['other', 'closed']] : [['shop', mode], ['other', 'closed']]))
    const ended = await place.call('ADD')
    if (code === 0) passed(ended)
    else {
      const { code: found, msg, details } = refused(ended)
      expect({ found, msg }).toEqual({ found: code, msg: expect.stringContaining('waits for Sidestep\'s agent') })
      expect(details).toContain(place.namespaces)
    }
    expect(ended.stderr !== '').toBe(mode !== 'absent')
  })

  test('a pod of the mesh waits for an agent that comes in a moment', async () => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
    const held = place.call('ADD')
    await new Promise((resolve) => setTimeout(resolve, 200))
    await place.serve(async () => captured)
    passed(await held)
  })

  test('where the mesh is not, or no longer, everything passes without a word', async () => {
    const ended = await place.call('ADD')
    passed(ended)
    expect(ended.stderr).toBe('')
  })

  test('a dead socket alone holds nobody', async () => {
    const server = await place.serve(async () => captured)
    await server.close()
    await access(place.socket)
    passed(await place.call('ADD'))
  })

  test('a file that cannot be understood holds all but the namespaces that never wait', async () => {
    for (const broken of ['', '{', '[]', '{"v":2,"namespaces":{}}', '{"v":1}', '{"v":1,"namespaces":{"a":"open","a":"open"}}']) {
      await writeFile(place.namespaces, broken)
      expect([broken, refused(await place.call('ADD', { config: place.config({ timeoutMs: 150 }) })).code]).toEqual([broken, 11])
    }
    passed(await place.call('ADD', { pod: 'sidestep-system/sidestep-ztunnel-x' }))
  })

  test('a mode that is neither is closed', async () => {
    await writeFile(place.namespaces, '{"v":1,"namespaces":{"shop":"ajar"}}')
    expect(refused(await place.call('ADD', { config: place.config({ timeoutMs: 150 }) })).code).toBe(11)
  })
})

describe('an agent that does not behave', () => {
  async function serveRaw(serve: (socket: Socket) => void): Promise<AsyncDisposable> {
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket.on('error', () => {
        // The plugin left.
      })
      serve(socket)
    })
    await new Promise<void>((resolve) => server.listen(place.socket, resolve))
    return {
      [Symbol.asyncDispose]: () => new Promise((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      }),
    }
  }

  test.each<[string, (socket: Socket) => void]>([
    ['never answers', () => {}],
    ['never ends its line', (socket) => void socket.write('{"ok":true')],
    ['leaves', (socket) => void socket.destroy()],
    ['sends what is no JSON', (socket) => void socket.write('yes\n')],
    ['sends something else', (socket) => void socket.write('{"ok":"true"}\n')],
    ['sends too much', (socket) => void socket.write('x'.repeat(200_000))],
  ])('%s: the namespace\'s mode decides, in bounded time', async (_, serve) => {
    await using _server = await serveRaw(serve)
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed'], ['dev', 'open']]))
    const config = place.config({ timeoutMs: 400 })
    const [shop, dev, other] = await Promise.all(['shop/a', 'dev/a', 'other/a'].map((pod) => place.call('ADD', { config, pod })))
    expect([shop?.code, dev?.code, other?.code]).toEqual([1, 0, 0])
    expect(dev?.stderr).toContain('passes without the mesh')
  })

  test('a pod of the namespaces that never wait does not even ask', async () => {
    let asked = 0
    await using _server = await serveRaw(() => (asked += 1))
    passed(await place.call('ADD', { pod: 'sidestep-system/agent' }))
    passed(await place.call('ADD', { pod: 'infra/agent', config: place.config({ exempt: ['infra'] }) }))
    expect(asked).toBe(0)
  })
})

describe('other commands', () => {
  test('DEL tells the agent, also when it comes late and empty', async () => {
    const asked: CniRequest[] = []
    await place.serve(async (request) => {
      asked.push(request)
      return { ok: true, captured: false }
    })
    const { prevResult: _, ...late } = place.config() as Record<string, unknown>
    expect(await place.call('DEL')).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
    expect(await place.call('DEL', { config: late, environment: { CNI_NETNS: '' } })).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
    expect(asked.map(({ command, netns, ips }) => [command, netns, ips])).toEqual([['DEL', '/var/run/netns/cni-1', ['10.1.2.3', 'fd00:1::3']], ['DEL', '', []]])
  })

  test.each<[string, unknown, Record<string, string>]>([
    ['without an agent', undefined, {}],
    ['with no configuration', '', {}],
    ['with broken JSON', '{"cniVersion":', {}],
    ['of a version to come', { cniVersion: '9.0.0' }, {}],
    ['without arguments', undefined, { CNI_ARGS: '', CNI_CONTAINERID: '', CNI_IFNAME: '' }],
    ['of a pod with a strange name', undefined, { CNI_ARGS: 'K8S_POD_NAMESPACE=a b;K8S_POD_NAME=../x' }],
  ])('DEL never fails: %s', async (_, config, environment) => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
    expect(await place.call('DEL', { ...(config === undefined ? {} : { config }), environment })).toMatchObject({ code: 0, stdout: '' })
  })

  test('DEL does not fail where the agent does', async () => {
    await place.serve(async () => ({ ok: false, because: 'no' }))
    expect(await place.call('DEL')).toMatchObject({ code: 0, stdout: '' })
  })

  test('CHECK says what the agent says, and nothing against a pod without an agent', async () => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
    const away = await place.call('CHECK')
    expect(away).toMatchObject({ code: 0, stdout: '' })
    expect(away.stderr).toContain('cannot be checked')
    await place.serve(async ({ name }) => (name === 'good' ? captured : { ok: false, because: 'its hooks are gone' }))
    expect(await place.call('CHECK', { pod: 'shop/good' })).toMatchObject({ code: 0, stdout: '', stderr: '' })
    expect(refused(await place.call('CHECK', { pod: 'shop/bad' })).details).toBe('its hooks are gone')
  })

  test('STATUS and GC hold nobody up', async () => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
    for (const command of ['STATUS', 'GC']) expect(await place.call(command)).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  test('VERSION says which versions there are', async () => {
    const { code, stdout } = await callPlugin({ CNI_COMMAND: 'VERSION' }, '{"cniVersion":"0.4.0"}')
    expect([code, JSON.parse(stdout)]).toEqual([0, { cniVersion: '0.4.0', supportedVersions: ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] }])
    expect(JSON.parse((await callPlugin({ CNI_COMMAND: 'VERSION' }, '')).stdout)).toMatchObject({ cniVersion: '1.1.0' })
  })

  test('an unknown command, or none, is an error', async () => {
    expect(refused(await callPlugin({ CNI_COMMAND: 'MOVE' }, '')).code).toBe(4)
    const none = await callPlugin({}, '')
    expect(refused(none).code).toBe(4)
    expect(none.stderr).toContain('container runtimes call it')
  })
})

describe('what the runtime got wrong', () => {
  test.each<[string, number, object | string, Record<string, string>]>([
    ['no JSON', 6, '{"cniVersion":"1.0.0",}', {}],
    ['a key twice', 6, '{"cniVersion":"1.0.0","cniVersion":"1.0.0"}', {}],
    ['no object', 6, '[]', {}],
    ['nothing', 6, '', {}],
    ['an old version', 1, { cniVersion: '0.2.0' }, {}],
    ['no version', 1, { cniVersion: undefined }, {}],
    ['no container', 4, {}, { CNI_CONTAINERID: '' }],
    ['no namespace of the network', 4, {}, { CNI_NETNS: '' }],
    ['a name that Kubernetes does not give', 4, {}, { CNI_ARGS: 'K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a"b' }],
    ['not chained', 7, { prevResult: undefined }, {}],
    ['too much', 6, `"${'x'.repeat(1 << 20)}"`, {}],
  ])('%s: code %d', async (_, code, more, environment) => {
    const config = typeof more === 'string' ? more : place.config(more)
    expect(refused(await place.call('ADD', { config, environment })).code).toBe(code)
  })

  test('a container that is no pod passes', async () => {
    await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
    passed(await place.call('ADD', { environment: { CNI_ARGS: '' } }))
  })
})

test('the executable needs nothing of the node', async () => {
  const file = await readFile(plugin)
  const [offset, size, count] = [Number(file.readBigUInt64LE(0x20)), file.readUInt16LE(0x36), file.readUInt16LE(0x38)]
  const types = Array.from({ length: count }, (_, i) => file.readUInt32LE(offset + i * size))
  expect(types).toContain(loadedSegment)
  expect(types).not.toContain(interpreterSegment)
  expect(file.length).toBeLessThan(2 << 20)
})
