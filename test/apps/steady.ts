// Steady clients of an echo server: `steady.ts HOST PORT CLIENTS HELD`. Each of CLIENTS asks again and again, with a connection
// for each question; each of HELD keeps one connection and asks on it. Prints what happened so far, line by line, until standard
// input ends. A question that is not answered within ten seconds has failed, and so has any that meets an error.
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

const [host = '', port = '', clients = '1', held = '0'] = process.argv.slice(2)
const answerMs = 10_000
const betweenMs = 200
const counts = { asked: 0, failed: 0, heldAsked: 0, heldFailed: 0, slowestMs: 0, errors: {} as Record<string, number> }
const stopping = new AbortController()

/** Rejects with the error's code, or what was wrong. */
function ask(socket: Socket, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = ''
    const finish = (error?: Error): void => {
      clearTimeout(timer)
      socket.off('data', onData).off('error', finish).off('end', onEnd)
      if (error) reject(error)
      else resolve()
    }
    const onData = (chunk: Buffer): void => {
      seen += chunk.toString()
      if (seen === text) finish()
      else if (!text.startsWith(seen)) finish(new Error('another answer'))
    }
    const onEnd = (): void => finish(new Error('ended early'))
    const timer = setTimeout(() => finish(new Error('no answer')), answerMs)
    socket.on('data', onData).once('error', finish).once('end', onEnd)
    socket.write(text)
  })
}

function note(error: unknown): void {
  const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
  counts.errors[code] = (counts.errors[code] ?? 0) + 1
}

async function client(id: number): Promise<void> {
  for (let turn = 0; !stopping.signal.aborted; turn++) {
    const startedMs = performance.now()
    const socket = connect({ host, port: Number(port) })
    try {
      await ask(socket, `client ${id} turn ${turn}\n`)
      counts.asked++
    } catch (error) {
      counts.failed++
      note(error)
    }
    counts.slowestMs = Math.max(counts.slowestMs, Math.round(performance.now() - startedMs))
    socket.on('error', () => {}) // judged already
    socket.end()
    await sleep(betweenMs * (0.5 + Math.random()))
  }
}

async function holder(id: number): Promise<void> {
  const socket = connect({ host, port: Number(port) })
  socket.on('error', () => {}) // the question that meets it reports it
  for (let turn = 0; !stopping.signal.aborted; turn++) {
    try {
      await ask(socket, `held ${id} turn ${turn}\n`)
      counts.heldAsked++
    } catch (error) {
      counts.heldFailed++
      note(error)
      return
    }
    await sleep(100)
  }
  socket.destroy()
}

const say = (): boolean => process.stdout.write(`${JSON.stringify(counts)}\n`)
const timer = setInterval(say, 100)
const all = [...Array.from({ length: Number(clients) }, (_, i) => client(i)), ...Array.from({ length: Number(held) }, (_, i) => holder(i))]
process.stdin.resume().on('end', () => {
  stopping.abort()
  void Promise.all(all).then(() => {
    clearInterval(timer)
    say()
    process.exit(0)
  })
})
