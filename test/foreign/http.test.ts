// The waypoint's HTTP alone, without a mesh, between clients and servers that nobody here wrote: what fails here is not the fault of
// tunnels or policies.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'
import { afterEach, describe, expect, it } from 'vitest'
import { runCommand } from '../../src/local/command.ts'
import { forwardingHandler, listen, readAll, startFront, text, upstreamTo, type RunningFront } from '../../src/waypoint/http/testing.ts'
import { goPrograms, python } from '../helpers/foreign.ts'
import { createServer } from 'node:net'

const suite = fileURLToPath(new URL('./websocket_suite.py', import.meta.url))
const undo: (() => Promise<void> | void)[] = []
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each()
})

async function front(handler: Parameters<typeof startFront>[0], declared: 'http1' | 'http2'): Promise<RunningFront> {
  const running = await startFront(handler, {}, declared)
  undo.push(() => running.close())
  return running
}

/** Starts a program that serves until the test ends. */
function start(argv: readonly string[]): ReturnType<typeof spawn> {
  const [file = '', ...args] = argv
  const child = spawn(file, args, { stdio: ['ignore', 'pipe', 'ignore'] })
  undo.push(async () => {
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
  })
  return child
}

async function freePort(): Promise<number> {
  const server = createServer()
  const port = await listen(server)
  await new Promise((done) => server.close(done))
  return port
}

async function untilListening(port: number): Promise<void> {
  const deadline = Date.now() + 10_000
  while ((await runCommand(['sh', '-c', `ss -Hltn sport = :${port} | grep -q .`])).code !== 0) {
    if (Date.now() > deadline) throw new Error(`nothing listens on ${port}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/**
 * nghttp2, below Node, answers these in its own way: frames on streams that were closed are ignored, as a race can bring them
 * (RFC 9113, 5.1 allows it), priorities are not looked at (RFC 9113 gave them up), and floods end the connection. Envoy and
 * nginx each have a list of their own. A plain node:http2 server fails the very same.
 */
const toleratedByNghttp2 = [
  'Sends a DATA frame after sending RST_STREAM frame', 'Sends a HEADERS frame after sending RST_STREAM frame', 'Sends a DATA frame', 'Sends a HEADERS frame',
  'Sends stream identifier that is numerically smaller than previous', 'Sends PRIORITY frame that depend on itself',
  'Sends a PRIORITY frame with 0x0 stream identifier', 'Sends a PING frame with ACK',
  'Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream',
]

describe('HTTP/2', () => {
  it('passes h2spec but for what nghttp2 tolerates', async () => {
    const { h2spec } = await goPrograms()
    // Some cases send a frame right after the end of a request and expect the stream to be open the other way: an answer that
    // was quicker would have closed it.
    const { port } = await front(async (request) => {
      const length = (await readAll(request.body)).length
      await new Promise((resolve) => setTimeout(resolve, 100))
      return text(200, `hello ${length}`)
    }, 'http2')
    const { stdout } = await runCommand([h2spec, '-h', '127.0.0.1', '-p', String(port), '-o', '2'], { timeoutMs: 240_000 })
    // oxlint-disable-next-line no-control-regex -- colours of a terminal
    const plain = stdout.replaceAll(/\u001B\[[0-9;]*m/g, '')
    const failed = [...(plain.split('Failures:')[1] ?? '').matchAll(/× \d+: (?:closed: )?(.*)/g)].map(([, name]) => name)
    expect(failed.filter((name) => !toleratedByNghttp2.includes(name ?? ''))).toEqual([])
    const passed = Number(/(\d+) passed/.exec(plain)?.[1] ?? 0)
    expect(passed).toBeGreaterThanOrEqual(135)
  }, 300_000)
})

describe('gRPC', () => {
  it('passes the interop tests of Go between its client and its server', async () => {
    const { grpcClient, grpcServer } = await goPrograms()
    const behind = await freePort()
    start([grpcServer, `--port=${behind}`, '--use_tls=false'])
    await untilListening(behind)
    const upstream = upstreamTo(behind, 'http2')
    undo.push(() => upstream.destroy())
    const { port } = await front(forwardingHandler(upstream), 'http2')
    const cases = [
      'empty_unary', 'large_unary', 'client_streaming', 'server_streaming', 'ping_pong', 'empty_stream', 'timeout_on_sleeping_server',
      'cancel_after_begin', 'cancel_after_first_response', 'status_code_and_message', 'special_status_message', 'unimplemented_method',
      'unimplemented_service', 'custom_metadata',
    ]
    const attempt = (name: string): ReturnType<typeof runCommand> =>
      runCommand([grpcClient, '--server_host=127.0.0.1', `--server_port=${port}`, '--use_tls=false', `--test_case=${name}`], { timeoutMs: 30_000 })
    const failed: string[] = []
    for (const name of cases) {
      const { code, stderr } = await attempt(name)
      if (code !== 0) failed.push(`${name}: ${stderr.trim().slice(-500)}`)
    }
    expect(failed).toEqual([])
    upstream.destroy()
    expect((await attempt('empty_unary')).code).not.toBe(0)
  }, 300_000)
})

describe('WebSocket', () => {
  it('passes the cases where proxies break it, between client and server of Python', async () => {
    const interpreter = await python()
    const server = start([interpreter, suite, 'serve'])
    const [line] = await once(createInterface({ input: server.stdout ?? process.stdin }), 'line') as [string]
    const upstream = upstreamTo(Number(line), 'http1', { maxConnections: 200 })
    undo.push(() => upstream.destroy())
    const { port } = await front(forwardingHandler(upstream), 'http1')
    const { stdout } = await runCommand([interpreter, suite, 'try', '127.0.0.1', String(port)], { timeoutMs: 120_000 })
    expect(stdout.split('\n').filter((each) => each.startsWith('failed'))).toEqual([])
    expect(stdout.match(/^ok /gm)).toHaveLength(11)
  }, 180_000)
})
