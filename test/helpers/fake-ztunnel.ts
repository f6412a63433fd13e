// Stands in for a ztunnel: `fake-ztunnel.ts DIRECTORY [cleanup]`. Appends every message of the node agent to
// DIRECTORY/said and answers what DIRECTORY/answer says: `ack`, `silent` (until it says otherwise) or an error's text.
// Carries no traffic. Says on its admin socket that it is ready.
import { appendFileSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { decodeLines, encodeLine } from '../../src/core/ndjson.ts'
import { agentMessageSchema, type AgentReply } from '../../src/model/enrolment.ts'
import type { ZtunnelState } from '../../src/model/ztunnel-state.ts'

const [directory = '', verb] = process.argv.slice(2)
const { SIDESTEP_NODE: node = '', SIDESTEP_AGENT_SOCKET: path = '', SIDESTEP_ADMIN_SOCKET: admin = '' } = process.env
const note = (value: unknown): void => appendFileSync(`${directory}/said`, `${JSON.stringify(value)}\n`)

async function answer(socket: Socket, seq: number): Promise<void> {
  for (;;) {
    const says = readFileSync(`${directory}/answer`, 'utf8').trim()
    if (says !== 'silent') {
      socket.write(encodeLine({ type: 'ack', seq, ...(says === 'ack' ? {} : { error: says }) } satisfies AgentReply))
      return
    }
    await sleep(20)
  }
}

function serve(): void {
  const socket = connect(path)
  let answered = Promise.resolve()
  const onLine = (value: unknown): void => {
    const message = agentMessageSchema.parse(value)
    note({ node, ...message })
    const before = answered
    answered = (async () => {
      await before
      await answer(socket, message.seq)
    })()
  }
  socket.on('data', decodeLines(1 << 20, onLine, (error) => {
    throw error
  }))
  socket.on('close', () => process.exit(1))
}

function sayReady(): void {
  const state: Partial<ZtunnelState> = {
    node, pid: process.pid, synced: true, draining: 0, connections: { open: 0, limit: 0 }, pods: [], counters: {}, memory: { rss: 0 },
  }
  rmSync(admin, { force: true })
  createServer((_request, response) => response.end(JSON.stringify(state))).listen(admin)
}

if (verb === 'cleanup') note({ node, cleanup: true })
else {
  sayReady()
  serve()
}
