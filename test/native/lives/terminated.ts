// Workers that are terminated in the middle of calls into the addon, hundreds of times; prints the descriptors of this
// process after the first few and after the last, which must be the same. Arguments: a namespace's path, how many each.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { native } from '../../../src/kernel/native.ts'
import { descriptors } from '../descriptors.ts'

const [, , path = '', rounds = '10'] = process.argv
const kinds = ['listens', 'connects', 'refused', 'links', 'paths', 'failures', 'maps', 'readers', 'messages', 'answers', 'connections']

native() // the main thread uses it as well
async function live(doing: string): Promise<void> {
  const worker = new Worker(new URL('terminated-worker.ts', import.meta.url), { workerData: { path, doing } })
  await once(worker, 'message')
  await sleep(1 + Math.random() * 15)
  await worker.terminate()
}

async function round(): Promise<void> {
  for (let i = 0; i < kinds.length; i += 4) await Promise.all(kinds.slice(i, i + 4).map(live))
}

// Started before descriptors are counted: each of its threads has some of its own.
await live('answers')
await round()
const before = descriptors()
for (let i = 0; i < Number(rounds); i++) await round()
let after = descriptors()
for (let i = 0; i < 100 && JSON.stringify(after) !== JSON.stringify(before); i++) {
  await sleep(20)
  after = descriptors()
}
console.log(JSON.stringify({ before, after }))
