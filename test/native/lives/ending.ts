// A process that ends in the middle of everything: by process.exit, by an exception in a timer or in the events' callback,
// or by itself, when it is only the addon's reader that is still there.
import { busy, keepBusy } from './busy.ts'
import { native } from '../../../src/kernel/native.ts'
import { sizeEvent } from '../../../src/kernel/generated/layout.ts'
import { FencePrograms } from '../fence-programs.ts'

const [, , ending, netns = ''] = process.argv

function fail(): never {
  throw new RangeError('on purpose')
}

if (ending === 'idle') {
  const fence = new FencePrograms()
  void new (native().RingBuffer)(fence.maps.events, sizeEvent, () => {})
  for (let i = 1; i <= 1000; i++) fence.refuse(i)
} else {
  let isBusy = false
  const work = await keepBusy(netns, 7900, () => {
    if (isBusy && ending === 'callback') fail()
    if (isBusy && ending === 'exit-in-callback') process.exit(7)
  })
  await busy(work)
  isBusy = true
  if (ending === 'exit') process.exit(7)
  if (ending === 'throw') setTimeout(fail, 5)
}
