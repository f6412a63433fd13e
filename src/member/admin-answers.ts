// How the admin API answers: JSON, and long lists bit by bit, so that a mesh of 50,000 workloads neither stops the event loop
// nor is held in memory as text.
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

const batch = 200

export function answerJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { ...headers, 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
}

export function answerText(response: ServerResponse, status: number, type: string, text: string | Buffer, more: Record<string, string> = {}): void {
  response.writeHead(status, { ...headers, 'content-type': type, ...more }).end(text)
}

/** Nothing of it belongs into a cache, a frame or another type than it has. */
const headers = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' }

/** A field of a streamed object: a value as it is, or a list that is turned into text while it is sent. */
export type Part = { readonly t: 'value'; readonly value: unknown } | { readonly t: 'list'; readonly items: readonly unknown[]; readonly view: (item: never) => unknown }

export function list<T>(items: Iterable<T>, view: (item: T) => unknown): Part {
  return { t: 'list', items: [...items], view: view as (item: never) => unknown }
}

/** An object of these fields; or a list alone. Resolves when it was sent or the asker has gone. */
export async function answerStream(response: ServerResponse, body: Part | Readonly<Record<string, Part>>): Promise<void> {
  response.writeHead(200, { ...headers, 'content-type': 'application/json' })
  try {
    await pipeline(Readable.from(isPart(body) ? partText(body) : objectText(body), { objectMode: true, highWaterMark: 1 }), response)
  } catch {
    // Whoever asked did not wait for the end.
  }
}

const isPart = (body: Part | Readonly<Record<string, Part>>): body is Part => typeof body['t'] === 'string'

async function* objectText(fields: Readonly<Record<string, Part>>): AsyncGenerator<string> {
  let separator = '{'
  for (const [name, part] of Object.entries(fields)) {
    yield `${separator}${JSON.stringify(name)}:`
    yield* partText(part)
    separator = ','
  }
  yield '}\n'
}

async function* partText(part: Part): AsyncGenerator<string> {
  if (part.t === 'value') {
    yield JSON.stringify(part.value) ?? 'null'
    return
  }
  yield '['
  for (let from = 0; from < part.items.length; from += batch) {
    const text = part.items.slice(from, from + batch).map((item) => JSON.stringify(part.view(item as never))).join(',')
    yield from === 0 ? text : `,${text}`
    // Connections come first.
    await new Promise((resolve) => setImmediate(resolve))
  }
  yield ']'
}

/**
 * Whether a page in somebody's browser may have made this request, and so why it is refused: the port is on loopback, which
 * every page can reach. A foreign name in Host is DNS rebinding; browsers add Origin and Sec-Fetch-Site by themselves.
 */
export function refusalOfBrowser({ headers: { host, origin, 'sec-fetch-site': site } }: IncomingMessage): string | undefined {
  if (host === undefined || !/^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i.test(host)) return 'the Host header names neither localhost nor a loopback address'
  if (origin !== undefined && origin !== `http://${host}`) return 'requests of other sites are not served'
  if (site !== undefined && site !== 'none' && site !== 'same-origin') return 'requests of other sites are not served'
  return undefined
}
