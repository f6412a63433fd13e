// The agent's side and the real plugin together, called along the chain on the disk as a runtime would.
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { activeConfig } from '../../src/agent/cni-files.ts'
import { readNamespaces, writeNamespaces } from '../../src/agent/cni-namespaces.ts'
import { removeFromNode } from '../../src/agent/cni-remove.ts'
import type { CniHandler } from '../../src/agent/cni-server.ts'
import { CniService } from '../../src/agent/cni-service.ts'
import { silentLogger } from '../../src/core/log.ts'
import { callPlugin, Place, plugin, previousResult, type Ended } from './plugin.ts'

const list = '{ "cniVersion": "1.0.0", "name": "k8s",\n  "plugins": [{"type":"first"}] }\n'
let place: Place
const services: CniService[] = []

beforeEach(async () => {
  place = await Place.make()
  for (const name of ['bin', 'net.d']) await mkdir(join(place.directory, name))
  await writeFile(join(place.directory, 'net.d/10-k8s.conflist'), list)
})
afterEach(async () => {
  for (const service of services.splice(0)) await service.close()
  await place[Symbol.asyncDispose]()
})

const conf = (): string => join(place.directory, 'net.d')
const bin = (): string => join(place.directory, 'bin')

function service(handle: CniHandler): CniService {
  const made = new CniService({
    socket: place.socket, namespacesFile: place.namespaces, executable: plugin, binDirectory: bin(), confDirectory: conf(), timeoutMs: 2000,
    exempt: ['sidestep-system'], handle, logger: silentLogger,
  })
  services.push(made)
  return made
}

/** Runs what the chain names behind its first plugin, with that one's result. Where there is nothing, the pod has its network. */
async function startPod(pod: string): Promise<Ended | 'not asked'> {
  const { plugins, cniVersion, name } = JSON.parse((await activeConfig(conf()))?.text ?? '{}')
  const [, ours] = plugins
  if (ours === undefined) return 'not asked'
  const [namespace, podName] = pod.split('/')
  return callPlugin({
    CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c1', CNI_NETNS: '/var/run/netns/x', CNI_IFNAME: 'eth0', CNI_ARGS: `K8S_POD_NAMESPACE=${namespace};K8S_POD_NAME=${podName}`,
  }, JSON.stringify({ ...ours, name, cniVersion, prevResult: previousResult }), join(bin(), ours.type))
}

test('from the first pod to a node without us: nothing slips through, and nothing is left', async () => {
  const asked: string[] = []
  const cni = service(async ({ name }) => {
    asked.push(name)
    return { ok: true, captured: true }
  })
  cni.setNamespaces(new Map([['shop', 'closed'], ['dev', 'open']]))
  expect(await startPod('shop/early')).toBe('not asked')
  await cni.start()
  expect(cni.state).toEqual({ t: 'chained', file: '10-k8s.conflist' })
  expect(await startPod('shop/web')).toMatchObject({ code: 0 })

  // The agent ends: what is in the mesh waits, the rest does not.
  await cni.close()
  expect(await startPod('shop/held')).toMatchObject({ code: 1 })
  expect(await startPod('dev/open')).toMatchObject({ code: 0 })
  expect(await startPod('other/free')).toMatchObject({ code: 0 })
  expect(await startPod('sidestep-system/agent')).toMatchObject({ code: 0 })
  expect(asked).toEqual(['web'])

  // Its successor goes on from there.
  const next = service(async () => ({ ok: true, captured: true }))
  next.setNamespaces(new Map([['shop', 'closed']]))
  await next.start()
  expect(await startPod('shop/held')).toMatchObject({ code: 0 })
  await next.close()

  const left = await removeFromNode({ confDirectory: conf(), binDirectory: bin(), socket: place.socket, namespaces: place.namespaces, logger: silentLogger, graceMs: 1 })
  expect(left).toEqual([])
  expect(await readdir(conf())).toEqual(['10-k8s.conflist'])
  expect(await readFile(join(conf(), '10-k8s.conflist'), 'utf8')).toBe(list)
  expect(await readdir(bin())).toEqual([])
  expect((await readdir(place.directory)).sort()).toEqual(['bin', 'net.d'])
})

test('while an older and a newer agent overlap, the newer one answers and neither undoes the other', async () => {
  const older = service(async () => ({ ok: false, because: 'the older one' }))
  await older.start()
  const newer = service(async () => ({ ok: true, captured: true }))
  await newer.start()
  expect(await startPod('shop/web')).toMatchObject({ code: 0 })
  await writeFile(join(conf(), '.new'), list.replace('first', 'other'))
  await rename(join(conf(), '.new'), join(conf(), '10-k8s.conflist'))
  await expect.poll(async () => (await activeConfig(conf()))?.text, { timeout: 10_000 }).toContain('sidestep-cni')
  await older.close()
  expect(await startPod('shop/web')).toMatchObject({ code: 0 })
})

test('an agent that does not know yet who is in the mesh goes by what the one before it wrote down', async () => {
  await writeNamespaces(place.namespaces, new Map([['shop', 'closed']]))
  const cni = service(async () => ({ ok: true, captured: true }))
  await cni.start()
  await cni.close()
  expect(await startPod('shop/held')).toMatchObject({ code: 1 })
})

test('the list of namespaces is the last one said, and is written again when it could not be', async () => {
  const cni = service(async () => ({ ok: true, captured: true }))
  for (let i = 0; i < 50; i += 1) cni.setNamespaces(new Map([[`n${i}`, i % 2 === 0 ? 'open' : 'closed']]))
  await cni.start()
  await expect.poll(() => readNamespaces(place.namespaces), { timeout: 10_000 }).toEqual(new Map([['n49', 'closed']]))
  await rm(place.namespaces)
  await mkdir(place.namespaces)
  cni.setNamespaces(new Map([['shop', 'open']]))
  await new Promise((resolve) => setTimeout(resolve, 50))
  await rm(place.namespaces, { recursive: true })
  await expect.poll(() => readNamespaces(place.namespaces), { timeout: 10_000 }).toEqual(new Map([['shop', 'open']]))
})
