import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { silentLogger } from '../core/log.ts'
import { decodeLines, encodeLine } from '../core/ndjson.ts'
import { agentMessageSchema, type AgentMessage, type PodEnrolment } from '../model/enrolment.ts'
import { EnrolmentAgent } from './enrolment-agent.ts'

let directory = ''
let path = ''
let agent: EnrolmentAgent
const clients: Socket[] = []

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sidestep-agent-'))
  path = join(directory, 'a.sock')
  agent = new EnrolmentAgent(path, silentLogger, () => {})
  await agent.listen()
})
afterEach(async () => {
  for (const client of clients.splice(0)) client.destroy()
  await agent.close()
  rmSync(directory, { recursive: true, force: true })
})

function pod(uid: string): PodEnrolment {
  return {
    uid, namespace: 'shop', name: uid, serviceAccount: 'default', node: 'node-a', netns: '/proc/1/ns/net',
    ips: ['10.244.1.2'], failureMode: 'closed', dns: true, probePorts: [],
  }
}

/** A ztunnel that answers as told; `said` collects what it was sent. */
function ztunnel(answer: (message: AgentMessage) => string | undefined | null): AgentMessage[] {
  const said: AgentMessage[] = []
  const socket = connect(path)
  clients.push(socket)
  socket.on('error', () => {})
  socket.on('data', decodeLines(1 << 20, (value) => {
    const message = agentMessageSchema.parse(value)
    said.push(message)
    const error = answer(message)
    if (error !== null) socket.write(encodeLine({ type: 'ack', seq: message.seq, ...(error === undefined ? {} : { error }) }))
  }, (error) => { throw error }))
  return said
}

async function eventually(check: () => void): Promise<void> {
  for (let i = 0; ; i++) {
    try {
      return check()
    } catch (error) {
      if (i === 200) throw error
      await sleep(10)
    }
  }
}

describe('enrolment', () => {
  test('a ztunnel that connects learns of all pods, then the snapshot, then changes', async () => {
    agent.set(pod('one'))
    expect(agent.stateOf('one')).toMatchObject({ t: 'waiting', because: expect.stringContaining('not connected') })
    const said = ztunnel(() => undefined)
    await agent.settled('one')
    expect(agent.stateOf('one')).toEqual({ t: 'captured' })
    agent.set(pod('two'))
    agent.set(pod('two'))
    await agent.settled('two')
    await agent.remove('one')
    expect(said.map((m) => [m.type, m.seq])).toEqual([['add', 1], ['snapshot', 2], ['add', 3], ['delete', 4]])
    expect(agent.stateOf('one')).toEqual({ t: 'absent' })
  })

  test('a refusal is kept as the reason and tried again', async () => {
    let tries = 0
    ztunnel((message) => (message.type === 'add' && ++tries === 1 ? 'no such namespace' : undefined))
    agent.set(pod('one'))
    await eventually(() => expect(agent.stateOf('one')).toMatchObject({ because: expect.stringContaining('no such namespace') }))
    await agent.settled('one')
    expect(tries).toBe(2)
  })

  test('captured pods stay captured when the ztunnel goes, and the next one hears of them', async () => {
    ztunnel(() => undefined)
    agent.set(pod('one'))
    await agent.settled('one')
    for (const client of clients) client.destroy()
    await eventually(() => expect(agent.isConnected).toBe(false))
    expect(agent.stateOf('one')).toEqual({ t: 'captured' })
    const said = ztunnel(() => undefined)
    await eventually(() => expect(said.map((m) => m.type)).toEqual(['add', 'snapshot']))
  })

  test('whoever waits is let go when the pod is removed, and removing does not wait for ever', async () => {
    ztunnel(() => null)
    agent.set(pod('one'))
    const settled = agent.settled('one')
    await eventually(() => expect(agent.isConnected).toBe(true))
    await agent.remove('one', 50)
    await settled
  })
})

test('nonsense from the socket cuts off that connection and nothing else', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (noise) => {
      const client = connect(path)
      clients.push(client)
      client.on('error', () => {})
      client.write(Buffer.concat([noise, Buffer.from('\n{"type":"ack","seq":99}\n')]))
      client.resume()
      await new Promise((resolve) => client.on('close', resolve))
    }),
    { numRuns: 50 },
  )
  ztunnel(() => undefined)
  agent.set(pod('one'))
  await agent.settled('one')
})
