// The ways out of a pod that test/apps/child-netns.sh builds really lead out where there is no mesh: only then does a
// refusal in another test prove anything.
import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildApps, type RunningServer, startServer } from '../helpers/apps.ts'
import type { ConnectResult } from '../helpers/app-results.ts'
import { LineProcess, runLines } from '../helpers/line-process.ts'

const podIp = '10.204.7.2'
const gatewayIp = '10.204.7.1'
const outsideIp = '10.204.8.1'

/** A namespace that lives as long as its holder; nothing is left when this process dies. */
async function namespace(): Promise<{ holder: LineProcess; enter: string[] }> {
  const holder = new LineProcess(['unshare', '--net', 'sh', '-c', 'echo \'"ready"\'; exec sleep infinity'])
  await holder.waitFor((line): line is string => line === 'ready')
  return { holder, enter: ['nsenter', `--net=/proc/${holder.pid}/ns/net`] }
}

function run(enter: readonly string[], command: string): string {
  const [file = '', ...args] = [...enter, 'sh', '-ec', command]
  return execFileSync(file, args, { encoding: 'utf8' })
}

/** What the pod's namespace looks like, without counters and lifetimes. */
function podState(enter: readonly string[]): string {
  return run(
    enter,
    `ip -br link | sed s/@.*//; ip -o addr show dev eth0 | grep -v fe80 | sed 's/ *valid_lft.*//'
     ip -4 route show table all | sort; ip rule; cat /proc/sys/net/ipv4/ip_forward; nft list tables`,
  )
}

describe('a child namespace of a pod', () => {
  let pod: Awaited<ReturnType<typeof namespace>>
  let outside: Awaited<ReturnType<typeof namespace>>
  let server: RunningServer

  beforeAll(async () => {
    pod = await namespace()
    outside = await namespace()
    run(pod.enter, `ip link set lo up; ip link add eth0 type veth peer name wire netns ${outside.holder.pid}`)
    run(outside.enter, `ip link set lo up; ip addr add ${gatewayIp}/24 dev wire; ip addr add ${outsideIp}/32 dev lo`)
    run(outside.enter, 'ip link set wire up')
    run(pod.enter, `ip addr add ${podIp}/24 dev eth0; ip link set eth0 up; ip route add default via ${gatewayIp}`)
    // As a flat network would carry it, so that the routed way can be answered.
    run(outside.enter, `ip route add 10.203.0.0/30 via ${podIp}`)
    server = await startServer(['--banner', '7000'], { wrap: outside.enter })
  })

  afterAll(async () => {
    await server?.stop()
    await pod?.holder.stop()
    await outside?.holder.stop()
  })

  it.each([
    ['routed', '10.203.0.2'],
    ['podip', podIp],
    ['masquerade', podIp],
    ['stolen-nic', podIp],
    ['macvlan', podIp],
  ])('gets out by %s, seen as %s, and leaves the pod as it was', async (way, seenAs) => {
    const { probe, childNetns } = await buildApps()
    const before = podState(pod.enter)
    const command = [childNetns, way, probe, 'connect', outsideIp, '7000', '--expect-banner', '--timeout', '6000']
    const { last } = await runLines(command, { wrap: pod.enter })
    expect(last).toMatchObject({ ok: true, banner: expect.stringContaining(`hello ${seenAs}:`) } satisfies Partial<ConnectResult>)
    expect(podState(pod.enter)).toBe(before)
  })
})
