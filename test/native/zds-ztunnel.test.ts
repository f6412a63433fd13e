// The ztunnel as a process, started with Istio's variables under an agent that speaks ZDS: it becomes ready, captures the
// pod that it is handed, carries its connections, and lets it go.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { FdServer } from '../../src/kernel/fd-socket.ts'
import type { FdSocket } from '../../src/kernel/fd-socket.ts'
import { native } from '../../src/kernel/native.ts'
import type { OwnedFd } from '../../src/kernel/native.ts'
import { WorkloadRequestSchema, WorkloadResponseSchema } from '../../src/proto/zds_pb.ts'
import { uniqueName } from '../helpers/instances.ts'
import { LineProcess } from '../helpers/line-process.ts'
import { hold } from './test-netns.ts'

type Payload = NonNullable<MessageInitShape<typeof WorkloadRequestSchema>['payload']>
const ztunnel = join(import.meta.dirname, '../../src/bin/ztunnel.ts')

function state(socketPath: string): Promise<{ pods: { uid: string; ips: string[] }[]; counters: unknown }> {
  return new Promise((resolve, reject) => {
    request({ socketPath, path: '/state' }, (response) => {
      response.setEncoding('utf8').toArray().then((parts) => resolve(JSON.parse(parts.join('')) as never), reject)
    }).on('error', reject).end()
  })
}

/** Answers with the address and port that the client seemed to have. */
const serverScript = `
require('node:net').createServer((socket) => socket.end(socket.remoteAddress)).listen(8080, '10.61.0.1', () => console.log('"listening"'))`
const clientScript = `
const socket = require('node:net').connect(8080, '10.61.0.1')
socket.setEncoding('utf8').on('data', (text) => console.log(JSON.stringify({ text, peer: socket.remoteAddress })))`

test('a ztunnel with the environment of Istio serves the pods of an agent that speaks ZDS', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sidestep-istio-'))
  const instance = uniqueName('zds')
  const node = await hold('link set lo up')
  const pod = await hold('link set lo up')
  const podPath = `/proc/${pod.pid}/ns/net`
  const inside = (pid: number, lines: string): unknown => execFileSync('nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', '-batch', '-'], { input: lines })
  inside(node.pid, `link add veth0 type veth peer name eth0 netns /proc/${pod.pid}/ns/net\nlink set veth0 up\naddr add 10.61.0.1/24 dev veth0\n`)
  inside(pod.pid, 'addr add 10.61.0.2/24 dev eth0\nlink set eth0 up\n')

  const answers: string[] = []
  const connected = Promise.withResolvers<FdSocket>()
  const server = FdServer.listen({
    path: join(directory, 'ztunnel.sock'),
    type: 'seqpacket',
    onConnection: (socket) => {
      let isGreeted = false
      socket.start({
        onMessage: (bytes) => {
          if (!isGreeted) isGreeted = true
          else {
            const { payload } = fromBinary(WorkloadResponseSchema, bytes)
            answers.push(payload.case === 'ack' ? payload.value.error : 'not an answer')
          }
        },
        onClose: () => {},
      })
      connected.resolve(socket)
    },
  })
  const environment = {
    INPOD_UDS: join(directory, 'ztunnel.sock'), NODE_NAME: 'worker-1', POD_NAME: 'ztunnel-x', POD_NAMESPACE: 'istio-system', RUST_LOG: 'info',
    // Of ours: one ztunnel of many on this machine, without a control plane.
    SIDESTEP_XDS_ADDRESS: 'none', SIDESTEP_INSTANCE: instance, SIDESTEP_ADMIN_SOCKET: join(directory, 'admin.sock'), SIDESTEP_HOST_NETNS: `/proc/${node.pid}/ns/net`,
    SIDESTEP_STATE_DIRECTORY: join(directory, 'state'), SIDESTEP_ADMIN_ADDRESS: 'none', SIDESTEP_METRICS_ADDRESS: 'none', SIDESTEP_READINESS_ADDRESS: 'none',
  }
  const proxy = new LineProcess([process.execPath, ztunnel], { env: environment, wrap: ['nsenter', `--net=/proc/${node.pid}/ns/net`] })
  const listening = new LineProcess([process.execPath, '-e', serverScript], { wrap: ['nsenter', `--net=/proc/${node.pid}/ns/net`] })
  const netns = native().openPath(podPath)
  try {
    await listening.waitFor((line): line is string => line === 'listening')
    const socket = await Promise.race([connected.promise, proxy.ended.then(({ stderr }) => Promise.reject(new RangeError(stderr)))])
    const ask = async (payload: Payload, fds: readonly OwnedFd[] = []): Promise<string | undefined> => {
      socket.send(toBinary(WorkloadRequestSchema, create(WorkloadRequestSchema, { payload })), fds)
      await expect.poll(() => answers.length, { timeout: 10_000 }).toBe(1)
      return answers.shift()
    }
    const dial = async (): Promise<unknown> => {
      await using client = new LineProcess([process.execPath, '-e', clientScript], { wrap: ['nsenter', `--net=${podPath}`] })
      return await client.waitFor((line): line is { text: string } => typeof line === 'object')
    }
    const admin = join(directory, 'admin.sock')
    const workloadInfo = { name: 'web-1', namespace: 'shop', serviceAccount: 'web' }
    expect(await ask({ case: 'add', value: { uid: 'uid-1', workloadInfo } }, [netns])).toBe('')
    expect(await ask({ case: 'snapshotSent', value: {} })).toBe('')
    await expect.poll(() => state(admin).then(({ pods }) => pods.map(({ uid, ips }) => ({ uid, ips }))), { timeout: 10_000 }).toEqual([{ uid: 'uid-1', ips: ['10.61.0.2'] }])
    expect(await dial()).toEqual({ text: '10.61.0.2', peer: '10.61.0.1' })
    expect(JSON.stringify(proxy.lines)).toContain('pod captured')
    // Each connection that was carried has its line, a text as Istio's.
    const carried = (): string[] => proxy.noise.filter((text) => text.includes('dst.addr=10.61.0.1:8080'))
    await expect.poll(carried, { timeout: 5_000 }).toEqual([expect.stringMatching(/direction=outbound src\.addr=10\.61\.0\.2:\d+ src\.workload=web-1 .*verdict=allowed/)])
    expect(await ask({ case: 'del', value: { uid: 'uid-1' } })).toBe('')
    expect((await state(admin)).pods).toEqual([])
    expect(await dial()).toEqual({ text: '10.61.0.2', peer: '10.61.0.1' })
    expect(carried()).toHaveLength(1)
  } finally {
    netns.close()
    await proxy.stop()
    execFileSync(process.execPath, [ztunnel, 'cleanup'], { env: { ...process.env, SIDESTEP_INSTANCE: instance } })
    server.close()
    for (const each of [listening, pod, node]) await each.stop()
    rmSync(directory, { recursive: true })
  }
})
