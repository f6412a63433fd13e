// A hostile pod with every capability in its own namespace tries to get around the mesh: each way is refused, and counted
// under its reason. test/netns/child-netns.test.ts shows that the same ways lead out where there is no mesh.
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { findCgroup2 } from '../../src/kernel/cgroup.ts'
import { nodeLinkMac } from '../../src/local/addresses.ts'
import { buildApps, runProbe, startServer } from '../helpers/apps.ts'
import type { RunningServer } from '../helpers/apps.ts'
import { uniqueName } from '../helpers/instances.ts'
import { runLines } from '../helpers/line-process.ts'
import { World, eventually } from '../helpers/meshed-world.ts'

let world: World
let server: RunningServer
let outside: RunningServer

beforeAll(async () => {
  world = await World.start([
    { name: 'hostile', node: 'node-a' },
    { name: 'server', node: 'node-b' },
    { name: 'stranger', node: 'node-a', isPlain: true },
    { name: 'probed', node: 'node-a', probePort: 7001 },
  ])
  server = await startServer(['--echo', '7001', '--udp', '7003'], world.inside('server'))
  outside = await startServer(['--echo', '7001', '--udp', '7003'], world.inside('outside'))
})
afterAll(async () => {
  await server?.stop()
  await outside?.stop()
  await world?.[Symbol.asyncDispose]()
})

/** Runs a shell line in the hostile pod's namespace. */
function hostile(line: string): string {
  return execFileSync('nsenter', [`--net=${world.netns('hostile')}`, '--', 'sh', '-ec', line], { encoding: 'utf8' })
}

/** How much a counter of node-a moved while `act` ran; waits for it to move by one at least. */
async function counted(reason: string, act: () => Promise<unknown>): Promise<void> {
  const before = (await world.counters('node-a'))[reason] ?? 0
  await act()
  await eventually(`counter ${reason} moves`, async () => ((await world.counters('node-a'))[reason] ?? 0) > before, 3_000)
}

/** A connection that must have gone through the ztunnel: it is counted there. */
async function captured(act: () => Promise<unknown>): Promise<void> {
  const before = await world.counts('hostile')
  await act()
  expect((await world.counts('hostile')).outbound).toBe(before.outbound + 1)
}

describe('stays captured', () => {
  test.each([1337, 0x51de, 0xffff_ffff])('with SO_MARK %i', async (mark) => {
    await captured(async () => {
      expect(await runProbe('connect', [world.ip('outside'), 7001, '--mark', mark, '--send', 'x'], world.inside('hostile'))).toMatchObject({ ok: true })
    })
  })

  test('with routes and rules of its own', async () => {
    hostile('ip route add 172.30.255.254 via 169.254.1.1 dev eth0 onlink; ip rule add pref 1 lookup main')
    try {
      await captured(() => runProbe('connect', [world.ip('outside'), 7001, '--send', 'x'], world.inside('hostile')))
    } finally {
      hostile('ip route del 172.30.255.254; ip rule del pref 1')
    }
  })

  test('bound to its device', async () => {
    const before = await world.counts('hostile')
    const result = await runProbe('connect', [world.ip('outside'), 7001, '--device', 'eth0', '--send', 'x', '--timeout', '1500'], world.inside('hostile'))
    const after = await world.counts('hostile')
    // Either the kernel finds no way to the listener over eth0, or it goes through the ztunnel: never around it.
    expect(result.ok ? after.outbound : before.outbound).toBe(result.ok ? before.outbound + 1 : after.outbound)
  })

  test('from a child cgroup', async () => {
    const cgroup = join(findCgroup2(), uniqueName('sidestep-test-'))
    mkdirSync(cgroup)
    try {
      const { probe } = await buildApps()
      await captured(() =>
        runLines(['sh', '-c', `echo $$ > ${cgroup}/cgroup.procs; exec ${probe} connect ${world.ip('outside')} 7001 --send x`], world.inside('hostile')),
      )
    } finally {
      await eventually('the child cgroup is empty', async () => {
        try {
          rmdirSync(cgroup)
          return true
        } catch {
          return false // its process is still being reaped
        }
      })
    }
  })
})

describe('is refused', () => {
  test.each(['routed', 'podip', 'masquerade', 'stolen-nic', 'macvlan'])('from a network namespace of its own, by %s', async (way) => {
    const { probe, childNetns } = await buildApps()
    const reason = { routed: 'spoofedSource', podip: 'noSocket', masquerade: 'noSocket', 'stolen-nic': 'notCaptured', macvlan: 'notCaptured' }[way] ?? ''
    await counted(reason, async () => {
      const command = [childNetns, way, probe, 'connect', world.ip('outside'), '7001', '--send', 'x', '--timeout', '1500']
      const { last } = await runLines(command, world.inside('hostile'))
      expect(last).toMatchObject({ ok: false })
    })
  })

  test('through a raw socket', async () => {
    await counted('noSocket', async () => {
      expect(await runProbe('rawsyn', [world.ip('hostile'), 4_444, world.ip('outside'), 7001, '--wait', 300], world.inside('hostile'))).toMatchObject({ reply: 'none' })
    })
  })

  test('through a packet socket that bypasses queueing', async () => {
    await counted('noSocket', async () => {
      const args = [world.ip('hostile'), 4_445, world.ip('outside'), 7001, '--packet', nodeLinkMac, '--wait', 300]
      expect(await runProbe('rawsyn', args, world.inside('hostile'))).toMatchObject({ reply: 'none' })
    })
  })

  test('with the source address of another pod, over TCP and UDP', async () => {
    await counted('spoofedSource', () => runProbe('spoofudp', [world.ip('server'), world.ip('outside'), 7003], world.inside('hostile')))
    await counted('spoofedSource', () => runProbe('rawsyn', [world.ip('stranger'), 4_446, world.ip('outside'), 7001, '--wait', 200], world.inside('hostile')))
  })

  test('with its own local route gone, so that the way to the ztunnel leads out', async () => {
    const ip = world.ip('hostile')
    hostile(`ip route del local ${ip} dev eth0 table local`)
    try {
      await counted('notCaptured', async () => {
        const result = await runProbe('connect', [world.ip('outside'), 7001, '--bind', `${ip}:0`, '--transparent', '--timeout', '1500'], world.inside('hostile'))
        expect(result.ok).toBe(false)
      })
    } finally {
      hostile(`ip route add local ${ip} dev eth0 table local proto kernel scope host src ${ip}`)
    }
  })

  test.each([15_001, 15_006, 15_008, 15_053])('dialling its own ztunnel on port %i', async (port) => {
    for (const host of [world.ip('hostile'), '127.0.0.1', '::1', world.ip('hostile', 6)]) {
      await counted('internalPort', async () => {
        expect(await runProbe('connect', [host, port], world.inside('hostile'))).toMatchObject({ ok: false, errno: 'ECONNREFUSED' })
      })
    }
  })

  test.each([15_001, 15_006, 15_053])('sending to another pod\'s capture listener on port %i', async (port) => {
    for (const from of ['hostile', 'stranger']) {
      const before = await world.counts('server')
      const result = await runProbe('connect', [world.ip('server'), port, '--send', 'x', '--timeout', '2000'], world.inside(from))
      expect(result.reply ?? '').toBe('')
      await eventually('the other pod refuses it', async () => (await world.counts('server')).refused > before.refused)
    }
  })

  test('towards IPv6 link-local addresses', async () => {
    await counted('linkLocal', async () => {
      expect(await runProbe('connect', ['fe80::1%eth0', 7001, '--timeout', '1000'], world.inside('hostile'))).toMatchObject({ ok: false })
    })
  })

  test('reached on an address that it gave itself', async () => {
    hostile('ip addr add 10.99.0.1/32 dev eth0')
    execFileSync('nsenter', [`--net=${world.netns('node-a')}`, '--', 'sh', '-ec', `ip route add 10.99.0.1/32 via ${world.ip('hostile')} onlink dev pod2 || ip route add 10.99.0.1/32 via ${world.ip('hostile')}`])
    await using inside = await startServer(['--echo', '7001'], world.inside('hostile'))
    try {
      await counted('unknownLocalAddress', async () => {
        expect(await runProbe('connect', ['10.99.0.1', 7001, '--timeout', '1000'], world.inside('node-a'))).toMatchObject({ ok: false })
      })
    } finally {
      hostile('ip addr del 10.99.0.1/32 dev eth0')
      execFileSync('nsenter', [`--net=${world.netns('node-a')}`, '--', 'ip', 'route', 'del', '10.99.0.1/32'])
      await inside.stop()
    }
  })
})

describe('probes', () => {
  test('the node reaches a declared probe port directly, and other ports only through the ztunnel', async () => {
    await using app = await startServer(['--echo', '7001', '--echo', '7004'], world.inside('probed'))
    const before = await world.counts('probed')
    await counted('probe', async () => {
      expect(await runProbe('connect', [world.ip('probed'), 7001, '--send', 'x'], world.inside('node-a'))).toMatchObject({ ok: true, reply: 'x' })
    })
    expect((await world.counts('probed')).inbound).toBe(before.inbound)
    expect(await runProbe('connect', [world.ip('probed'), 7004, '--send', 'x'], world.inside('node-a'))).toMatchObject({ ok: true, reply: 'x' })
    expect((await world.counts('probed')).inbound).toBe(before.inbound + 1)
    // From elsewhere the probe port is a port like any other.
    expect(await runProbe('connect', [world.ip('probed'), 7001, '--send', 'x'], world.inside('stranger'))).toMatchObject({ ok: true })
    expect((await world.counts('probed')).inbound).toBe(before.inbound + 2)
    await app.stop()
  })
})
