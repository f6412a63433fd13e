// What a pod of a local mesh finds, and how pods reach each other: one mesh of bare pods, looked at from inside.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { LocalMesh } from '../../src/local/mesh.ts'
import { eventually, inNetns, podYaml, serviceYaml, whoServer, world } from '../helpers/world.ts'

let mesh: LocalMesh
const directory = mkdtempSync(join(tmpdir(), 'sidestep-pods-'))

beforeAll(async () => {
  mesh = await world()
    .pod('client', { node: 'node-a', container: { env: [
      { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
      { name: 'WHERE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } },
      { name: 'TEXT', value: '$(WHERE)/$$(WHERE)' },
    ] } })
    .pod('custom-dns', { spec: { dnsPolicy: 'None', dnsConfig: { nameservers: ['192.0.2.53'], searches: ['example.org'], options: [{ name: 'ndots', value: '2' }] } } })
    .pod('near', { node: 'node-a', labels: { app: 'who' }, command: whoServer(), ports: [{ name: 'web', containerPort: 8080 }],
      container: { readinessProbe: { httpGet: { path: '/', port: 'web' }, periodSeconds: 1 } } })
    .pod('far', { node: 'node-b', labels: { app: 'who' }, command: whoServer(), ports: [{ name: 'web', containerPort: 8080 }],
      container: { readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 } } })
    .pod('udp', { node: 'node-b', labels: { app: 'echo' }, command: [process.execPath, '-e', `
      const s = require('node:dgram').createSocket({ type: 'udp6' }); s.on('message', (m, r) => s.send(m, r.port, r.address)); s.bind(5000, '::')`] })
    .service('who', [{ port: 80, targetPort: 'web' }])
    .service('echo', [{ port: 53, protocol: 'UDP', targetPort: 5000 }])
    .service('nobody', [{ port: 80 }])
    .service('fixed', [{ port: 80 }], { clusterIP: '10.96.7.7', ipFamilyPolicy: 'SingleStack' })
    .service('headless', [{ port: 80 }], { clusterIP: 'None' })
    .start({ mesh: false })
})
afterAll(async () => {
  await mesh?.stop()
  rmSync(directory, { recursive: true })
})

async function output(pod: string, ...command: string[]): Promise<string> {
  const { code, stdout, stderr } = await mesh.exec('default', pod, undefined, command)
  expect(`${stderr}${code}`).toBe('0')
  return stdout.trim()
}

const curl = (pod: string, url: string): Promise<string> => output(pod, 'curl', '-sS', '--max-time', '5', url)
const ips = (pod: string): readonly string[] => mesh.pod('default', pod).facts.ips
const serviceIps = (name: string): string[] => mesh.status().services.find((service) => service.name === name)?.ips ?? []

describe('inside a pod', () => {
  test('host name, addresses, hosts, resolver and environment are its own', async () => {
    expect(await output('client', 'hostname')).toBe('client')
    expect(await output('client', 'cat', '/etc/hostname')).toBe('client')
    expect(ips('client')).toEqual(['10.244.1.2', 'fd00:10:244:1::2'])
    expect(await output('client', 'ip', '-o', 'addr', 'show', 'dev', 'eth0')).toMatch(/10\.244\.1\.2\/32[^]*fd00:10:244:1::2\/128/)
    expect(await output('client', 'cat', '/etc/hosts')).toContain('10.244.1.2\tclient')
    expect(await output('client', 'cat', '/etc/resolv.conf')).toBe(
      'nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5',
    )
    expect(await output('custom-dns', 'cat', '/etc/resolv.conf')).toBe('nameserver 192.0.2.53\nsearch example.org\noptions ndots:2')
    expect(await output('client', 'sh', '-c', 'echo $IP $WHERE $TEXT')).toBe('10.244.1.2 node-a node-a/$(WHERE)')
  })

  test('other processes, the mesh and dangerous capabilities are out of sight', async () => {
    expect(await output('client', 'sh', '-c', 'ls -d /proc/[0-9]* | wc -l')).toMatch(/^[1-9]$/)
    expect(await output('client', 'ls', '/run/sidestep')).toBe('')
    const { code, stderr } = await mesh.exec('default', 'client', undefined, ['ip', 'link', 'set', 'eth0', 'down'])
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/not permitted/)
  })

  test('exec passes input, output and exit code', async () => {
    const result = await mesh.exec('default', 'client', 'main', ['sh', '-c', 'cat; echo problem >&2; exit 7'], { input: 'given' })
    expect(result).toEqual({ code: 7, stdout: 'given', stderr: 'problem\n' })
    expect((await mesh.exec('default', 'client', 'main', ['/no/such/program'])).code).toBe(127)
    expect((await mesh.exec('default', 'client', 'main', ['sh', '-c', 'kill -9 $$'])).code).toBe(137)
    expect(() => mesh.execPlan('default', 'client', 'other', ['true'])).toThrow(/no running container other/)
    expect(() => mesh.execPlan('default', 'ghost', undefined, ['true'])).toThrow(/no pod default\/ghost/)
  })
})

describe('between pods', () => {
  test.each(['near', 'far'])('both families reach %s, which sees the client itself', async (server) => {
    const [v4 = '', v6 = ''] = ips(server)
    expect(await curl('client', `http://${v4}:8080/`)).toBe(`${server} ${ips('client')[0]}`)
    expect(await curl('client', `http://[${v6}]:8080/`)).toBe(`${server} ${ips('client')[1]}`)
  })

  test('nodes and the world outside reach pods under their own addresses', async () => {
    const [v4 = ''] = ips('far')
    expect((await inNetns(mesh.nodeNetns('node-a'), ['curl', '-sS', `http://${v4}:8080/`])).stdout).toBe('far 172.30.0.1\n')
    expect((await inNetns(mesh.underlayNetns, ['curl', '-sS', `http://${v4}:8080/`])).stdout).toBe('far 172.30.255.254\n')
  })

  test('an address that no pod has is unreachable at once', async () => {
    const { code, stderr } = await mesh.exec('default', 'client', undefined, ['curl', '-sS', '--max-time', '3', 'http://10.244.1.250/'])
    expect([code, stderr]).toEqual([7, expect.stringMatching(/Failed to connect|No route/)])
  })
})

describe('services', () => {
  test('spread over the ready pods on all nodes, in both families, for pods and for nodes', async () => {
    for (const ip of serviceIps('who')) {
      const url = ip.includes(':') ? `http://[${ip}]/` : `http://${ip}/`
      const answers = await output('client', 'sh', '-c', `for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do curl -sS ${url}; done`)
      const servers = answers.split('\n').map((line) => line.split(' ')[0])
      expect(servers).toHaveLength(16)
      expect(new Set(servers)).toEqual(new Set(['near', 'far']))
      expect((await inNetns(mesh.nodeNetns('node-b'), ['curl', '-sS', url])).stdout).toMatch(/^(near|far) /)
    }
  })

  test('a pod that reaches itself through its service gets an answer', async () => {
    const [ip = ''] = serviceIps('who')
    const answers = await output('near', 'sh', '-c', `for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sS --max-time 3 http://${ip}/; done`)
    expect(answers.split('\n')).toHaveLength(12)
    expect(answers).toContain('near 172.30.0.1')
    expect(answers).toContain(`far ${ips('near')[0]}`)
  })

  test('UDP goes through as well', async () => {
    const [ip = ''] = serviceIps('echo')
    const script = `const s = require('node:dgram').createSocket('udp4'); s.on('message', (m, r) => { console.log(String(m), r.address); s.close() });
      s.send('hello', 53, '${ip}')`
    expect(await output('client', process.execPath, '-e', script)).toBe(`hello ${ip}`)
  })

  test('without ready pods, or on another port, they refuse; addresses asked for are given', async () => {
    const [nobody = ''] = serviceIps('nobody')
    const [who = ''] = serviceIps('who')
    for (const url of [`http://${nobody}/`, `http://${who}:81/`]) {
      const result = await mesh.exec('default', 'client', undefined, ['curl', '-sS', '--max-time', '3', url])
      expect(result.code).toBe(7)
    }
    expect(serviceIps('fixed')).toEqual(['10.96.7.7'])
    expect(serviceIps('headless')).toEqual([])
  })

  test('a readiness probe decides who gets connections', async () => {
    const marker = join(directory, 'ready')
    mesh.apply(`${podYaml('gated', { labels: { app: 'gated' }, command: whoServer(),
      container: { readinessProbe: { exec: { command: ['sh', '-c', `test -e ${marker} && curl -sf http://127.0.0.1:8080/`] }, periodSeconds: 1, failureThreshold: 1 } },
    })}---\n${serviceYaml('gated', [{ port: 80, targetPort: 8080 }])}`)
    await mesh.waitUntil(() => mesh.status().pods.some((pod) => pod.name === 'gated' && pod.phase === 'Running'), 5000)
    const endpoints = (): number => mesh.status().services.find((s) => s.name === 'gated')?.ports[0]?.endpoints.length ?? -1
    expect(endpoints()).toBe(0)
    await mesh.exec('default', 'gated', undefined, ['touch', marker])
    await mesh.waitReady(5000)
    expect(endpoints()).toBe(2)
    expect(await curl('client', `http://${serviceIps('gated')[0]}/`)).toMatch(/^gated /)
    await mesh.exec('default', 'gated', undefined, ['rm', marker])
    await eventually(() => expect(endpoints()).toBe(0), 5000)
    expect(mesh.status().pods.find((pod) => pod.name === 'gated')).toMatchObject({ ready: false, phase: 'Running' })
    mesh.unapply('Pod default/gated')
  })
})
