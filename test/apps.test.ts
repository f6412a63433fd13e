// Every test application on plain loopback, without any mesh: what fails here is the application's fault, and nobody
// should then look for it in the mesh.
import { mkdtempDisposable, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  isClosed, isHolding, isQuestion, type RunningServer, runGoclient, runLoad, runProbe, startHold, startLoadPeer,
  startProbe, startServer,
} from './helpers/apps.ts'
import type { ClosedEvent, ManyResult, QuestionEvent } from './helpers/app-results.ts'

const MiB = 1024 * 1024
let server: RunningServer

beforeAll(async () => {
  const modes = ['echo', 'banner', 'hash', 'halfclose', 'bulk', 'reset', 'reset-accept', 'slow', 'stall', 'hold']
  const dns = ['--dns', '127.77.3.1:0', '--record', 'web.test=10.1.2.3,2001:db8::7']
  server = await startServer([...modes.flatMap((mode) => [`--${mode}`, '0']), '--source', '100000@0', ...dns, '--log'])
})

afterAll(() => server?.stop())

describe('probe connect', () => {
  it.each([
    ['plainly', []],
    ['without blocking', ['--nonblock']],
    ['by io_uring', ['--io-uring']],
    ['with Fast Open in the send', ['--tfo']],
    ['with Fast Open in the connect', ['--tfo-connect']],
    ['bound first', ['--bind', '127.0.0.1:0']],
    ['with a mark', ['--mark', '7']],
    ['on a named device', ['--device', 'lo']],
  ])('connects %s and tells both names', async (_, options) => {
    const port = server.port('banner')
    const result = await runProbe('connect', ['127.0.0.1', port, '--expect-banner', '--send', 'hello', ...options])
    expect(result).toMatchObject({
      ok: true, before: { peerErrno: 'ENOTCONN' }, talking: { peer: `127.0.0.1:${port}` },
      sent: 5, reply: 'hello', end: 'eof', protocol: 6,
    })
    expect(result.banner).toBe(`hello ${result.talking?.local} at 127.0.0.1:${port}\n`)
  })

  it('shows v4-mapped names as the socket sees them, and plain ones to the server', async () => {
    const port = server.port('banner')
    const result = await runProbe('connect', ['127.0.0.1', port, '--v4mapped', '--expect-banner'])
    const after = { peer: `[::ffff:127.0.0.1]:${port}`, local: expect.stringMatching(/^\[::ffff:127\.0\.0\.1\]:/) }
    expect(result).toMatchObject({ ok: true, after })
    expect(result.banner).toMatch(/^hello 127\.0\.0\.1:\d+ at 127\.0\.0\.1:/)
  })

  it('connects over IPv6 and keeps the port it was bound to', async () => {
    const first = await runProbe('connect', ['::1', server.port('echo'), '--bind', '[::1]:0', '--send', 'x', '--keep-open'])
    expect(first).toMatchObject({ ok: true, reply: 'x', end: 'complete' })
    expect(first.before.local).toBe(first.after.local)
  })

  it('asks for MPTCP and works with or without it', async () => {
    const result = await runProbe('connect', ['127.0.0.1', server.port('echo'), '--mptcp', '--send', 'many paths'])
    expect(result).toMatchObject({ ok: true, reply: 'many paths', protocol: 262 })
  })

  it.each([[[]], [['--nonblock']], [['--io-uring']], [['--v4mapped']]])('reports a refusal with %j', async (options) => {
    const result = await runProbe('connect', ['127.0.0.1', 1, ...options])
    expect(result).toMatchObject({ ok: false, stage: 'connect', errno: 'ECONNREFUSED' })
  })

  it('reports RST after the first byte and RST at once', async () => {
    const late = await runProbe('connect', ['127.0.0.1', server.port('reset'), '--send', 'boom'])
    expect(late).toMatchObject({ ok: false, errno: 'ECONNRESET', stage: 'read' })
    const early = await runProbe('connect', ['127.0.0.1', server.port('reset-accept'), '--read'])
    expect(early).toMatchObject({ ok: false, errno: 'ECONNRESET', stage: 'read' })
  })

  it('sends RST, and the server logs it as such', async () => {
    const options = ['--send', 'x', '--keep-open', '--rst', '--timeout', '300']
    const result = await runProbe('connect', ['127.0.0.1', server.port('hold'), ...options])
    expect(result).toMatchObject({ ok: false, stage: 'read', errno: 'ETIMEDOUT', end: 'timeout' })
    const client = result.after.local
    const event = await server.process.waitFor((line): line is ClosedEvent => isClosed(line) && line.client === client)
    expect(event).toMatchObject({ mode: 'hold', bytes: 1, end: 'ECONNRESET' })
  })

  it('hears the answer that comes after its own end of file', async () => {
    const result = await runProbe('connect', ['127.0.0.1', server.port('halfclose'), '--send', 'over to you'])
    expect(result).toMatchObject({ ok: true, reply: 'after eof: 11\n', end: 'eof' })
  })

  it('reads a source to its end', async () => {
    const result = await runProbe('connect', ['::1', server.port('source'), '--read'])
    expect(result).toMatchObject({ ok: true, received: 100_000, end: 'eof' })
  })

  it('agrees with the server about a known hash', async () => {
    const result = await runProbe('connect', ['127.0.0.1', server.port('hash'), '--send', 'abc'])
    expect(result.reply).toBe('3 44bc2cf5ad770999\n')
  })

  it('rejects wrong usage instead of guessing', async () => {
    await expect(runProbe('connect', ['127.0.0.1'])).rejects.toMatchObject({ code: 'COMMAND_FAILED' })
    await expect(runProbe('connect', ['127.0.0.1', 1, '--mark', 'x'])).rejects.toMatchObject({ code: 'COMMAND_FAILED' })
  })
})

describe('transfers', () => {
  it.each(['up', 'down', 'both'])('%s: both ends hash the same bytes', async (direction) => {
    const result = await runProbe('bulk', ['127.0.0.1', server.port('bulk'), direction, 64 * MiB + 5])
    expect(result).toMatchObject({ ok: true, firstBadOffset: -1 })
    expect(result.sent).toBe(direction === 'down' ? 0 : 64 * MiB + 5)
    expect(result.received).toBe(direction === 'up' ? 0 : 64 * MiB + 5)
  })

  it('survives an end of file before the download', async () => {
    const result = await runProbe('bulk', ['::1', server.port('bulk'), 'down', 3 * MiB, '--half-close', '--seed', '99'])
    expect(result).toMatchObject({ ok: true, received: 3 * MiB })
  })

  it.each(['up', 'down', 'both'])('%s: the Go client agrees too', async (direction) => {
    const result = await runGoclient('bulk', [`127.0.0.1:${server.port('bulk')}`, direction, 8 * MiB + 3, '--seed', '5'])
    expect(result).toMatchObject({ ok: true })
  })

  it('a slow and a stalled reader hold the writer back', async () => {
    const slow = await runProbe('flood', ['127.0.0.1', server.port('slow'), '--seconds', '1', '--rst'])
    const stalled = await runProbe('flood', ['127.0.0.1', server.port('stall'), '--seconds', '1', '--rst'])
    expect(slow.ok && stalled.ok).toBe(true)
    expect(slow.accepted).toBeLessThan(16 * MiB)
    expect(stalled.accepted).toBeLessThan(32 * MiB)
  })

  it('reads slowly when asked to', async () => {
    const result = await runProbe('bulk', ['127.0.0.1', server.port('bulk'), 'down', 1_000_000, '--rate', '1000000'])
    expect(result.ok).toBe(true)
    expect(result.ms).toBeGreaterThan(800)
  })
})

describe('probe many', () => {
  it('echoes a message of its own on each of 500 connections', async () => {
    const result = await runProbe('many', ['127.0.0.1', server.port('echo'), 500, '--echo'])
    expect(result).toMatchObject({ ok: true, asked: 500, connected: 500, echoed: 500, alive: 500, failures: {} })
    expect(result.connectMs?.p99).toBeGreaterThan(0)
  })

  it('says when it holds them all and proves them alive at the end', async () => {
    await using probe = await startProbe('many', ['::1', server.port('echo'), 200, '--echo', '--hold', '1'])
    expect(await probe.waitFor(isHolding)).toMatchObject({ connected: 200 })
    await probe.ended
    expect(probe.lines.at(-1)).toMatchObject({ ok: true, echoed: 400, alive: 200 } satisfies Partial<ManyResult>)
  })

  it('counts failures by errno', async () => {
    const refused = await runProbe('many', ['127.0.0.1', 1, 20])
    expect(refused).toMatchObject({ ok: false, connected: 0, failures: { ECONNREFUSED: 20 } })
    const reset = await runProbe('many', ['127.0.0.1', server.port('reset'), 20, '--echo'])
    expect(reset).toMatchObject({ ok: false, echoed: 0, alive: 0, failures: { ECONNRESET: 20 } })
  })
})

describe('DNS', () => {
  it.each([
    [[]], [['--connected']], [['--msg']], [['--connected', '--msg']], [['--v4mapped']], [['--v4mapped', '--connected']],
    [['--tcp']],
  ])(
    'asks and is answered with %j',
    async (options) => {
      const asked = `127.77.3.1:${server.port('dns')}`
      const result = await runProbe('dns', ['web.test', asked, ...options])
      expect(result).toMatchObject({ ok: true, exchanges: [{ rcode: 0, answers: ['10.1.2.3'] }] })
      const shown = options.includes('--v4mapped') ? asked.replace('127.77.3.1', '[::ffff:127.77.3.1]') : asked
      const exchange = result.exchanges[0]
      if (!options.includes('--tcp')) expect(exchange).toMatchObject({ from: shown, fromServer: true })
      if (options.includes('--connected')) expect(exchange?.socket.peer).toBe(shown)
    },
  )

  it('answers AAAA, unknown names and who is asking', async () => {
    const asked = `127.77.3.1:${server.port('dns')}`
    const six = await runProbe('dns', ['WEB.test', asked, '--type', 'AAAA'])
    expect(six.exchanges[0]?.answers).toEqual(['2001:db8::7'])
    const unknown = await runProbe('dns', ['nobody.test', asked])
    expect(unknown.exchanges[0]).toMatchObject({ rcode: 3, answers: [] })
    const whoami = await runProbe('dns', ['whoami.test', asked])
    expect(whoami.exchanges[0]?.answers).toEqual(['127.0.0.1'])
    const isAboutNobody = (line: unknown): line is QuestionEvent => isQuestion(line) && line.name === 'nobody.test'
    const question = await server.process.waitFor(isAboutNobody)
    expect(question.client).toMatch(/^127\.0\.0\.1:/)
  })

  it('keeps two servers apart on one socket', async () => {
    await using second = await startServer(['--dns', '127.77.3.2:0', '--dns', '127.77.3.3:0', '--record', 'web.test=10.9.9.9'])
    const first = `127.77.3.1:${server.port('dns')}`
    const other = `127.77.3.2:${second.port('dns')}`
    for (const options of [[], ['--connected']]) {
      const result = await runProbe('dns', ['web.test', first, '--two-servers', other, ...options])
      expect(result.exchanges).toMatchObject([{ from: first, answers: ['10.1.2.3'] }, { from: other, answers: ['10.9.9.9'] }])
    }
  })

  it('reports silence', async () => {
    const result = await runProbe('dns', ['web.test', `127.0.0.1:${server.port('echo')}`, '--timeout', '200'])
    expect(result.ok).toBe(false)
    expect(result.exchanges[0]).toMatchObject({ stage: 'receive', errno: expect.stringMatching(/ETIMEDOUT|ECONNREFUSED/) })
  })

  it('serves the C library and Go, with truncation to TCP', async () => {
    const many = Array.from({ length: 60 }, (_, i) => `10.5.0.${i + 1}`)
    await using directory = await mkdtempDisposable(join(tmpdir(), 'sidestep-apps-'))
    const resolvConf = join(directory.path, 'resolv.conf')
    await writeFile(resolvConf, 'nameserver 127.77.3.9\noptions timeout:2 attempts:1\n')
    // A mount namespace of its own: the machine's resolv.conf stays what it is.
    const wrap = ['unshare', '--mount', 'sh', '-c', `mount --bind ${resolvConf} /etc/resolv.conf && exec "$@"`, 'sh']
    const records = ['--record', 'web.test=10.1.2.3,2001:db8::7', '--record', `big.test=${many.join(',')}`]
    await using dns = await startServer(['--dns', '127.77.3.9:53', ...records])
    expect(dns.port('dns')).toBe(53)
    expect((await runProbe('resolve', ['web.test'], { wrap })).addresses.toSorted()).toEqual(['10.1.2.3', '2001:db8::7'])
    expect(await runProbe('resolve', ['nobody.test'], { wrap })).toMatchObject({ ok: false, addresses: [] })
    expect((await runProbe('resolve', ['big.test', '--family', '4'], { wrap })).addresses.toSorted()).toEqual(many.toSorted())
    expect((await runGoclient('resolve', ['web.test'], { wrap })).addresses).toEqual(['10.1.2.3', '2001:db8::7'])
    const direct = await runGoclient('resolve', ['big.test', '--server', '127.77.3.9:53'])
    expect(direct.addresses).toEqual(many.toSorted())
    const unknown = await runGoclient('resolve', ['nobody.test', '--server', '127.77.3.9:53'])
    expect(unknown).toMatchObject({ ok: false, notFound: true })
  })
})

describe('the Go client', () => {
  it.each(['tcp', 'tcp4', 'tcp6'])('dials %s', async (network) => {
    const host = network === 'tcp6' ? '[::1]' : '127.0.0.1'
    const asked = `${host}:${server.port('banner')}`
    const result = await runGoclient('dial', [network, asked, '--banner', '--send', 'ping'])
    expect(result).toMatchObject({ ok: true, peer: asked, reply: 'ping', banner: `hello ${result.local} at ${asked}\n` })
  })

  it('reports a refusal', async () => {
    const result = await runGoclient('dial', ['tcp', '127.0.0.1:1'])
    expect(result).toMatchObject({ ok: false, stage: 'connect', errno: 'ECONNREFUSED' })
  })
})

describe('packets that no socket made', () => {
  it('a raw SYN is answered by a listener and refused elsewhere', async () => {
    const open = await runProbe('rawsyn', ['127.0.0.1', 39_001, '127.0.0.1', server.port('echo')])
    expect(open).toMatchObject({ ok: true, reply: 'synAck' })
    const closed = await runProbe('rawsyn', ['::1', 39_002, '::1', 1, '--payload', 'data'])
    expect(closed).toMatchObject({ ok: true, reply: 'rst' })
  })

  it('a SYN handed to the device arrives', async () => {
    const device = ['--packet', '00:00:00:00:00:00', '--dev', 'lo']
    const result = await runProbe('rawsyn', ['::1', 39_003, '::1', server.port('echo'), ...device])
    expect(result).toMatchObject({ ok: true, reply: 'synAck' })
  })

  it('a datagram with a foreign source arrives as such', async () => {
    await using udp = await startServer(['--udp', '0', '--bind', '127.0.0.1'])
    expect(await runProbe('spoofudp', ['127.9.9.9', '127.0.0.1', udp.port('udp')])).toMatchObject({ ok: true })
    await expect(runProbe('spoofudp', ['127.9.9.9', '::1', udp.port('udp')])).rejects.toMatchObject({ code: 'COMMAND_FAILED' })
  })
})

describe('the load generator', () => {
  it('measures throughput, latency, rate and held connections', async () => {
    await using peer = await startLoadPeer(0)
    const up = await runLoad('throughput', ['127.0.0.1', peer.port, '--seconds', '1'])
    expect(up).toMatchObject({ ok: true, failures: {} })
    expect(up.gbitPerSecond).toBeCloseTo((up.bytes * 8) / 1e9 / up.seconds, 0)
    const down = await runLoad('throughput', ['::1', peer.port, '--seconds', '1', '--streams', '4', '--down'])
    expect(down).toMatchObject({ ok: true, streams: 4 })
    const ping = await runLoad('pingpong', ['127.0.0.1', peer.port, '--seconds', '1'])
    expect(ping.ok && ping.us.p50 > 0 && ping.us.p50 <= ping.us.p99 && ping.us.p99 <= ping.us.max).toBe(true)
    const rate = await runLoad('rate', ['127.0.0.1', peer.port, '--seconds', '1'])
    expect(rate).toMatchObject({ ok: true, failures: {} })
    await using hold = await startHold(['127.0.0.1', peer.port, 1000, '--seconds', 30])
    expect(await hold.waitFor(isHolding)).toMatchObject({ connected: 1000 })
    hold.closeInput()
    await hold.ended
    expect(hold.lines.at(-1)).toMatchObject({ ok: true, alive: 1000 })
  })

  it('counts refusals instead of measuring them', async () => {
    const result = await runLoad('rate', ['127.0.0.1', 1, '--seconds', '1', '--parallel', '2'])
    expect(result).toMatchObject({ ok: false, count: 0, failures: { ECONNREFUSED: expect.any(Number) } })
  })
})
