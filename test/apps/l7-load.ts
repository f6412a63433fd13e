// Asks a URL over and over in so many lines at once, over connections that are kept, until its input ends; then says how often it
// asked and what came. Usage: l7-load.ts URL LINES [METHOD]
import { Agent, request } from 'node:http'

const [url = '', lines = '4', method = 'GET'] = process.argv.slice(2)
const agent = new Agent({ keepAlive: true, maxSockets: Number(lines) })
const outcomes: Record<string, number> = {}
const bad: string[] = []
let asked = 0
const over = new AbortController()

function ask(isAgain: boolean): Promise<string> {
  return new Promise((resolve) => {
    const sent = request(url, { agent, method, timeout: 20_000 }, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (part: string) => (body += part))
      response.on('error', (error: NodeJS.ErrnoException) => resolve(`body ${error.code ?? error.message}`))
      response.on('end', () => {
        if (response.statusCode !== 200 && bad.length < 5) bad.push(`${new Date().toISOString()} ${response.statusCode} ${body.slice(0, 300)}`)
        resolve(String(response.statusCode))
      })
    })
    sent.on('timeout', () => sent.destroy(new Error('timeout')))
    sent.on('error', (error: NodeJS.ErrnoException) => {
      const why = error.code ?? error.message
      if (sent.reusedSocket && !isAgain) return resolve('reused')
      if (bad.length < 5) bad.push(`${new Date().toISOString()} ${why}`)
      resolve(why)
    })
    sent.end()
  })
}

async function line(): Promise<void> {
  while (!over.signal.aborted) {
    let outcome = await ask(method !== 'GET')
    // A kept connection that ended just when it was used again: every client of HTTP asks once more (RFC 9110, 9.2.2).
    if (outcome === 'reused') outcome = await ask(true)
    asked++
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

process.stdin.resume().on('end', () => over.abort())
process.stdout.write('{"event":"asking"}\n')
await Promise.all(Array.from({ length: Number(lines) }, line))
process.stdout.write(`${JSON.stringify({ asked, outcomes, bad })}\n`)
process.exit(0)
