import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseManifest } from '../model/manifest-parse.ts'
import type { PodSpec } from '../model/manifest-pod.ts'
import { containerCapabilities, containerCommand, containerEnv, expand, hostsFile, resolvConf, type PodFacts } from './environment.ts'

const facts: PodFacts = {
  uid: 'u', namespace: 'shop', name: 'web', hostname: 'web', node: 'node-a', nodeIp: '172.30.0.1', serviceAccount: 'sa', ips: ['10.244.1.2', 'fd00::2'],
}

function podSpec(fields: string): PodSpec {
  const { objects, problems } = parseManifest(`apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, command: [x]}], ${fields}}`, 'f')
  const [object] = objects
  if (object?.kind !== 'Pod') throw new Error(JSON.stringify(problems))
  return object.spec
}

describe('variables', () => {
  test('are replaced as Kubernetes does it', () => {
    const variables = new Map([['A', '1'], ['B', '$(A)']])
    for (const [text, result] of [['$(A)', '1'], ['$$(A)', '$(A)'], ['$(X)', '$(X)'], ['$(B)', '$(A)'], ['$', '$'], ['$$', '$'], ['$(A', '$(A']]) {
      expect(expand(text ?? '', variables)).toBe(result)
    }
  })

  test('text without a dollar stays as it is', () => {
    fc.assert(fc.property(fc.string().filter((t) => !t.includes('$')), (text) => {
      expect(expand(text, new Map([['A', 'x']]))).toBe(text)
    }))
  })

  test('of a container come from the manifest, earlier ones usable in later ones and in the command', () => {
    const [object] = parseManifest(`apiVersion: v1
kind: Pod
metadata: { name: p }
spec:
  containers:
  - name: c
    command: [serve, "$(ME)"]
    args: ["$(PATH)"]
    env:
    - { name: IPS, valueFrom: { fieldRef: { fieldPath: status.podIPs } } }
    - { name: ME, value: "$(IPS):80" }
    - { name: PATH, value: /own }
`, 'f').objects
    const container = object?.kind === 'Pod' ? object.spec.containers[0] : undefined
    if (!container) throw new Error('not a pod')
    const env = containerEnv(container, facts, '/host')
    expect(env).toEqual({ PATH: '/own', HOME: '/root', HOSTNAME: 'web', IPS: '10.244.1.2,fd00::2', ME: '10.244.1.2,fd00::2:80' })
    expect(containerCommand(container, env)).toEqual(['serve', '10.244.1.2,fd00::2:80', '/own'])
  })
})

describe('files', () => {
  test.each([
    ['', 'nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n'],
    ['dnsConfig: {nameservers: [192.0.2.1], searches: [x.y], options: [{name: ndots, value: "1"}, {name: rotate}]}',
      'nameserver 10.96.0.10\nnameserver 192.0.2.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local x.y\noptions ndots:1 rotate\n'],
    ['dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1]}', 'nameserver 192.0.2.1\n'],
    ['dnsPolicy: Default', 'nameserver 203.0.113.9\n'],
    ['dnsPolicy: Default, dnsConfig: {searches: [a.b]}', 'nameserver 203.0.113.9\nsearch a.b\n'],
  ])('resolv.conf for {%s}', (fields, text) => expect(resolvConf(podSpec(fields), 'shop', 'nameserver 203.0.113.9\n')).toBe(text))

  test('hosts has the pod under all its addresses', () => {
    expect(hostsFile(facts)).toMatch(/10\.244\.1\.2\tweb\nfd00::2\tweb\n$/)
  })
})

test('capabilities: the usual few, what is added, what is dropped, all for privileged', () => {
  const netAdmin = 1n << 12n
  const netRaw = 1n << 13n
  const rights = (capabilities?: { add?: string[]; drop?: string[] }, privileged = false): bigint | undefined =>
    containerCapabilities({ privileged, allowPrivilegeEscalation: true, capabilities: capabilities && { add: [], drop: [], ...capabilities } })
  expect((containerCapabilities(undefined) ?? 0n) & (netAdmin | netRaw)).toBe(netRaw)
  expect((rights({ add: ['NET_ADMIN'] }) ?? 0n) & netAdmin).toBe(netAdmin)
  expect((rights({ add: ['CAP_NET_ADMIN'], drop: ['ALL'] }) ?? 0n)).toBe(netAdmin)
  expect((rights({ drop: ['net_raw'] }) ?? 0n) & netRaw).toBe(0n)
  expect(rights({ add: ['NO_SUCH_THING'], drop: ['ALL'] })).toBe(0n)
  expect(rights(undefined, true)).toBeUndefined()
})
