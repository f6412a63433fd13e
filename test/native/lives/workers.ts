// Pairs of busy workers that end in the middle of it, again and again; prints this process's descriptors after the first
// few pairs and after the last, which must be the same.
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { native } from '../../../src/kernel/native.ts'
import { descriptors } from '../descriptors.ts'

const netns = process.argv[2]
const endings = ['never', 'exit', 'throw'] as const

native() // the main thread uses it as well
async function live(port: number, ending: (typeof endings)[number]): Promise<void> {
  const worker = new Worker(new URL('worker.ts', import.meta.url), { workerData: { netns, port, ending } })
  const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()))
  const failed = once(worker, 'error').then(([error]: unknown[]) => {
    if (ending !== 'throw' || !(error instanceof Error) || error.message !== 'on purpose') throw error
  })
  // Not `once`, which fails with the worker: its error may be seen before its message.
  await Promise.race([new Promise<void>((resolve) => worker.once('message', () => resolve())), failed])
  if (ending === 'never') {
    await sleep(Math.random() * 20)
    await worker.terminate()
  }
  await ended
}

async function pairs(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    await Promise.all([live(7800, 'never'), live(7801, endings[i % endings.length] ?? 'never')])
  }
}

await pairs(2)
const before = descriptors()
await pairs(6)
let after = descriptors()
for (let i = 0; i < 100 && JSON.stringify(after) !== JSON.stringify(before); i++) {
  await sleep(20)
  after = descriptors()
}
console.log(JSON.stringify({ before, after }))
