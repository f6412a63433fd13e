// What a runtime says of a sandbox is read as far as it makes sense, and never further.
import { create, fromBinary } from '@bufbuild/protobuf'
import { assert, property, string, uint8Array } from 'fast-check'
import { expect, test } from 'vitest'
import { PodSandboxState, PodSandboxStatusResponseSchema } from '../proto/cri_pb.ts'
import { CriClient, readSandboxStatus } from './cri-client.ts'

const metadata = { name: 'web', uid: 'u', namespace: 'shop' }

function read(info: string, more: object = {}): ReturnType<typeof readSandboxStatus> {
  return readSandboxStatus(create(PodSandboxStatusResponseSchema, {
    status: { id: 'x', metadata, state: PodSandboxState.SANDBOX_READY, createdAt: 5n, network: { ip: '10.0.0.1', additionalIps: [{ ip: 'fd00::1' }] }, ...more }, info: { info },
  }))
}

test('containerd and CRI-O tell the namespace by path and by process', () => {
  const containerd = JSON.stringify({ pid: 7, processStatus: 'running', runtimeSpec: { linux: { namespaces: [{ type: 'pid' }, { type: 'network', path: '/var/run/netns/cni-1' }] } } })
  expect(read(containerd)).toEqual({
    sandbox: { id: 'x', ...metadata, createdAt: 5n }, isHostNetwork: false, paths: ['/var/run/netns/cni-1', '/proc/7/ns/net'], ips: ['10.0.0.1', 'fd00::1'],
  })
  expect(read(JSON.stringify({ image: 'pause', pid: 8 }))?.paths).toEqual(['/proc/8/ns/net'])
})

test.each(['', 'no JSON', '[]', '7', 'null', '{"pid":-1}', '{"pid":"7"}', '{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"../../x"}]}}}', '{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/run/../x"}]}}}'])('from %s comes no path', (info) => {
  expect(read(info)?.paths).toEqual([])
})

test('a sandbox that is not ready, or without a pod, is none; one of the node is told', () => {
  expect(read('{}', { state: PodSandboxState.SANDBOX_NOTREADY })).toBeUndefined()
  expect(readSandboxStatus(create(PodSandboxStatusResponseSchema, {}))).toBeUndefined()
  expect(read('{}', { linux: { namespaces: { options: { network: 2 } } } })?.isHostNetwork).toBe(true)
})

test('any bytes, and any info', () => {
  assert(property(uint8Array({ maxLength: 300 }), (bytes) => {
    try {
      readSandboxStatus(fromBinary(PodSandboxStatusResponseSchema, bytes))
    } catch (error) {
      expect(String(error)).not.toContain('undefined is not')
    }
  }))
  assert(property(string({ maxLength: 200 }), (info) => {
    expect(read(info)?.ips).toEqual(['10.0.0.1', 'fd00::1'])
  }))
})

test('a runtime that is not there does not hold anybody up', async () => {
  const client = new CriClient('/nowhere/cri.sock')
  await expect(client.list()).rejects.toMatchObject({ code: 'AGENT_UNAVAILABLE' })
  client.close()
  expect(CriClient.find('none')).toBeUndefined()
  expect(CriClient.find('unix:///run/x.sock')?.path).toBe('/run/x.sock')
})
