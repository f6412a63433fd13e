// Everyday workloads in a namespace that takes mutual TLS only: what Kubernetes itself does with pods goes on as without a mesh.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { capturedCondition } from '../../src/model/kubernetes-names.ts'
import { eventually } from './machine.ts'
import type { Stage } from './stage.ts'
import { inMesh, installed, newNamespace } from './stage.ts'
import { Wire } from './wire.ts'
import { deployment, fetchOnce, pod, podSpec, service, whoServer } from './workloads.ts'

const waitMs = 60_000
const http = [{ name: 'http', port: 80, targetPort: 8080 }] as const
let there: Stage
let strict: string
let outside: string

beforeAll(async () => {
  there = await installed()
  const { kube, appImage: image } = there
  ;[strict, outside] = [await newNamespace('strict', inMesh), await newNamespace('outside')]
  const [a, b] = (await kube.list('nodes')).map((node) => node.metadata.name)
  const probe = (kind: Record<string, unknown>) => ({ ...kind, periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 5 })
  // An application needs its time to start; how much, is not the matter here.
  const first = (kind: Record<string, unknown>) => ({ ...probe(kind), failureThreshold: 60 })
  const get = probe({ httpGet: { path: '/', port: 8080 } })
  await kube.apply(
    { apiVersion: 'sidestep.dev/v1alpha1', kind: 'PeerAuthentication', metadata: { name: 'strict', namespace: strict }, spec: { mtls: { mode: 'STRICT' } } },
    deployment('who', { namespace: strict, image, command: whoServer(8080, 'clear-4712'), node: b ?? '', container: { ports: [{ containerPort: 8080, name: 'http' }], startupProbe: first({ httpGet: { path: '/', port: 8080 } }), livenessProbe: get, readinessProbe: probe({ httpGet: { path: '/', port: 'http' } }) } }),
    service(strict, 'who', http),
    deployment('tcp', { namespace: strict, image, command: whoServer(8080), container: { ports: [{ containerPort: 8080 }], startupProbe: first({ tcpSocket: { port: 8080 } }), livenessProbe: probe({ tcpSocket: { port: 8080 } }), readinessProbe: probe({ exec: { command: ['true'] } }) } }),
    pod('client', { namespace: strict, image, node: a ?? '' }),
    pod('stranger', { namespace: outside, image }),
    pod('host', { namespace: outside, image, spec: { hostNetwork: true, dnsPolicy: 'ClusterFirstWithHostNet' } }),
  )
  for (const name of ['who', 'tcp']) await kube.rolledOut(strict, `deployment/${name}`)
  await kube.podsHave(strict, 'app', capturedCondition)
  await kube.podsHave(outside, 'app', 'Ready')
}, 600_000)
afterAll(() => there?.kube.delete('namespace', strict, outside, '--wait=false'))

test('probes of all kinds reach their pods, time after time', async () => {
  const { kube } = there
  // Ten probes of each kind.
  await new Promise((resolve) => setTimeout(resolve, 10_000))
  for (const { metadata, status } of await kube.pods(strict)) {
    expect(status.conditions?.find(({ type }) => type === 'Ready')?.status, metadata.name).toBe('True')
    expect(status.containerStatuses?.map(({ restartCount }) => restartCount), metadata.name).toEqual([0])
  }
})

test('a captured pod is served by a strict one, a stranger and a pod in the host network are not', async () => {
  const { kube } = there
  const url = `http://who.${strict}.svc.cluster.local/`
  expect(await kube.exec(strict, 'client', fetchOnce(url))).toMatch(/^200 who-/)
  for (const name of ['stranger', 'host']) {
    const { code, stdout } = await kube.tryExec(outside, name, fetchOnce(url))
    expect([code, stdout.trim()], name).toEqual([1, expect.stringMatching(/ECONNRESET|ECONNREFUSED|UND_ERR_SOCKET/)])
  }
  const [host] = await kube.pods(outside, 'app=host')
  expect(host?.status.conditions?.find(({ type }) => type === capturedCondition)?.status ?? 'False').toBe('False')
})

test('both families go through the mesh, and none in plain text', async () => {
  const { kube, cluster } = there
  const [who] = await kube.pods(strict, 'app=who')
  await using wire = cluster ? await Wire.start(cluster.node('node-a')) : undefined
  for (const { ip } of who?.status.podIPs ?? []) {
    expect(await kube.exec(strict, 'client', fetchOnce(`http://${ip.includes(':') ? `[${ip}]` : ip}:8080/`)), ip).toContain('clear-4712')
  }
  if (wire) expect((await wire.holding('clear-4712')).inPlain).toBe(0)
})

test('a job with an init container asks the mesh from its first moment on, and ends', async () => {
  const { kube, appImage: image } = there
  const url = `http://who.${strict}.svc.cluster.local/`
  const template = podSpec({
    namespace: strict, image, command: fetchOnce(url),
    spec: { restartPolicy: 'Never', initContainers: [{ name: 'first', image, command: fetchOnce(url) }] },
  })
  await kube.apply({ apiVersion: 'batch/v1', kind: 'Job', metadata: { name: 'once', namespace: strict }, spec: { backoffLimit: 0, template: { spec: template } } })
  await kube.kubectl(['wait', '-n', strict, 'job/once', '--for=condition=Complete', '--timeout=90s'])
  expect(await kube.logs(strict, 'job/once', 1)).toMatch(/^200 who-/)
  expect(await kube.logs(strict, 'job/once', 1, ['-c', 'first'])).toMatch(/^200 who-/)
})

test("a StatefulSet's pods are reached by their own names", async () => {
  const { kube, appImage: image } = there
  await kube.apply(
    service(strict, 'db', [{ name: 'tcp', port: 8080 }], { clusterIP: 'None' }),
    {
      apiVersion: 'apps/v1', kind: 'StatefulSet', metadata: { name: 'db', namespace: strict },
      spec: {
        serviceName: 'db', replicas: 2, podManagementPolicy: 'Parallel', selector: { matchLabels: { app: 'db' } },
        template: { metadata: { labels: { app: 'db' } }, spec: podSpec({ namespace: strict, image, command: whoServer(), container: { ports: [{ containerPort: 8080 }], readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } } }) },
      },
    },
  )
  await kube.rolledOut(strict, 'statefulset/db')
  await kube.podsHave(strict, 'app=db', capturedCondition)
  for (const name of ['db-0', 'db-1']) {
    const answer = await eventually(`${name} answers`, waitMs, async () => {
      const { code, stdout } = await kube.tryExec(strict, 'client', fetchOnce(`http://${name}.db.${strict}.svc.cluster.local:8080/`))
      return code === 0 ? stdout : undefined
    }, 500)
    expect(answer).toContain(`200 ${name} `)
  }
})

test('it works beside each mode of kube-proxy', async ({ skip }) => {
  const { kube, cluster } = there
  if (!cluster) return skip('the nodes of this cluster are not ours')
  for (const mode of ['nftables', 'iptables'] as const) {
    for (const node of cluster.nodes) {
      await node.machine.stopService('kube-proxy')
      await node.startProxy(mode)
    }
    for (const [from, pod] of [[strict, 'client'], [outside, 'stranger']] as const) {
      await eventually(`${pod} reaches the name server in mode ${mode}`, waitMs, async () => ((await kube.tryExec(from, pod, ['node', '-e', `require('node:dns').promises.lookup('who.${strict}.svc.cluster.local')`])).code === 0 ? true : undefined), 500)
    }
    expect(await kube.exec(strict, 'client', fetchOnce(`http://who.${strict}.svc.cluster.local/`)), mode).toMatch(/^200 who-/)
  }
})
