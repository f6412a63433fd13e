// A worker that is busy until it is terminated; tells its parent once, when everything is under way.
import { parentPort, workerData } from 'node:worker_threads'
import { busy, keepBusy } from './busy.ts'

const { netns, port, ending } = workerData as { netns: string; port: number; ending: 'never' | 'exit' | 'throw' }
const work = await keepBusy(netns, port)
await busy(work)
parentPort?.postMessage('busy', [])
if (ending === 'exit') process.exit(0)
if (ending === 'throw') {
  setImmediate(() => {
    throw new RangeError('on purpose')
  })
}
