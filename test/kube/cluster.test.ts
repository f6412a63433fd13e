// The stage itself: a Kubernetes that does what one expects of it, before anything of ours is in it. What fails here is no fault of the mesh.
import { readlinkSync, statSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Stage } from './stage.ts'
import { newNamespace, stage } from './stage.ts'
import { deployment, fetchOnce, pod, service, whoServer } from './workloads.ts'

let there: Stage
let namespace: string

beforeAll(async () => {
  there = await stage()
  const { kube, appImage: image } = there
  namespace = await newNamespace('plain')
  const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 }
  await kube.apply(
    deployment('who', { namespace, image, replicas: 2, command: whoServer(), container: { readinessProbe }, spec: {
      topologySpreadConstraints: [{ maxSkew: 1, topologyKey: 'kubernetes.io/hostname', whenUnsatisfiable: 'DoNotSchedule', labelSelector: { matchLabels: { app: 'who' } } }],
    } }),
    service(namespace, 'who', [{ name: 'http', port: 80, targetPort: 8080 }]),
    pod('client', { namespace, image }),
  )
  await kube.rolledOut(namespace, 'deployment/who')
  await kube.podsHave(namespace, 'app=client', 'Ready')
}, 600_000)
afterAll(() => there?.kube.delete('namespace', namespace, '--wait=false'))

test('nodes are ready, and have addresses of both families', async () => {
  const nodes = await there.kube.list('nodes')
  expect(nodes.length).toBeGreaterThanOrEqual(2)
  for (const { status } of nodes) {
    expect(status?.conditions?.find(({ type }) => type === 'Ready')?.status).toBe('True')
    if (there.cluster) expect(((status?.['addresses'] ?? []) as { type: string; address: string }[]).filter(({ type }) => type === 'InternalIP').map(({ address }) => address.includes(':')).toSorted()).toEqual([false, true])
  }
})

test('a service is reached by its name, and on every node, by both families', async () => {
  const { kube } = there
  const { spec } = await kube.get('service', '-n', namespace, 'who')
  const urls = [`http://who.${namespace}.svc.cluster.local/`, ...((spec?.['clusterIPs'] ?? []) as string[]).map((address) => `http://${address.includes(':') ? `[${address}]` : address}/`)]
  for (const url of urls) {
    const answers = new Set<string>()
    for (let turn = 0; turn < 20 && answers.size < 2; turn++) answers.add((await kube.exec(namespace, 'client', fetchOnce(url))).split(' ')[1] ?? '')
    expect(answers.size, url).toBe(2)
  }
})

test('pods see the addresses of pods that call them, across nodes too', async () => {
  const { kube } = there
  const [client] = await kube.pods(namespace, 'app=client')
  for (const server of await kube.pods(namespace, 'app=who')) {
    for (const { ip } of server.status.podIPs ?? []) {
      const [, name, source] = (await kube.exec(namespace, 'client', fetchOnce(`http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`))).trim().split(' ')
      expect(name).toBe(server.metadata.name)
      expect(client?.status.podIPs).toContainEqual({ ip: source })
    }
  }
})

test('a node is a machine of its own: links, processes and file systems of its own', async ({ skip }) => {
  const { cluster } = there
  if (!cluster) return skip('the machines of this cluster are not ours')
  const { machine } = cluster.node('node-a')
  expect((await machine.mustRun(['hostname'])).trim()).toBe('node-a')
  expect(await machine.mustRun(['ls', '/sys/class/net'])).toContain('eth0')
  expect(await machine.mustRun(['stat', '-c', '%d', '/sys/fs/bpf'])).not.toBe(`${statSync('/sys/fs/bpf').dev}\n`)
  expect((await machine.mustRun(['readlink', '/proc/1/ns/pid'])).trim()).not.toBe(readlinkSync('/proc/self/ns/pid'))
})
