// A backend for tests of waypoints: says what it was asked, and does on wish what backends do: fail, wait, stream. HTTP/1.1 on the
// first port given, HTTP/2 without TLS on the second. Knows no mesh.
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import http2 from 'node:http2'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'

const [http1Port = '8080', http2Port] = process.argv.slice(2)
/** Requests so far by path, and how often `/flaky` has failed by its key. */
const counts = new Map<string, number>()
const failures = new Map<string, number>()

async function answer(question: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(question.url ?? '/', 'http://backend')
  counts.set(url.pathname, (counts.get(url.pathname) ?? 0) + 1)
  const [, what = '', arg = ''] = url.pathname.split('/')
  const end = (status: number, body: string, headers: Record<string, string> = {}): void => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(body)
  }
  let bodyBytes = 0
  for await (const chunk of question) bodyBytes += (chunk as Buffer).length
  switch (what) {
    case 'status': return end(Number(arg), `status ${arg}`, url.searchParams.has('after') ? { 'retry-after': url.searchParams.get('after') ?? '' } : {})
    // Fails so many times for each key, then answers.
    case 'flaky': {
      const key = url.searchParams.get('key') ?? ''
      const failed = failures.get(key) ?? 0
      if (failed < Number(arg)) {
        failures.set(key, failed + 1)
        return end(503, 'not yet')
      }
      break
    }
    case 'reset': return void question.socket.destroy()
    case 'slow':
      await sleep(Number(arg))
      break
    case 'cached': return end(200, JSON.stringify({ count: counts.get(url.pathname) }), { 'cache-control': `max-age=${arg}` })
    case 'counts': return end(200, JSON.stringify(Object.fromEntries(counts)))
    case 'stream': {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (let turn = 0; turn < Number(arg); turn++) {
        response.write(`data: ${turn}\n\n`)
        await sleep(50)
      }
      return void response.end()
    }
    default:
  }
  end(200, `${JSON.stringify({
    pod: hostname(), method: question.method, path: url.pathname + url.search, version: question.httpVersion, headers: question.headers,
    client: question.socket.remoteAddress?.replace('::ffff:', ''), bodyBytes,
  })}\n`)
}

const onRequest = (question: IncomingMessage, response: ServerResponse): void => void answer(question, response).catch(() => response.destroy())
createServer(onRequest).listen(Number(http1Port), '::')
// What HTTP/2 gives is made to look alike; the types do not say so.
if (http2Port !== undefined) http2.createServer(onRequest as unknown as Parameters<typeof http2.createServer>[1]).listen(Number(http2Port), '::')
process.on('SIGTERM', () => process.exit(0))
