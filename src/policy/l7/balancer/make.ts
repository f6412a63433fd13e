// The balancer that a traffic policy asks for.
import type { LoadBalancer } from '../../../model/route.ts'
import type { Balancer, SlowStart } from './balancer.ts'
import { LeastRequestBalancer } from './least-request.ts'
import { MaglevBalancer } from './maglev.ts'
import { PeakEwmaBalancer } from './peak-ewma.ts'
import { RandomBalancer } from './random.ts'
import { RingHashBalancer } from './ring-hash.ts'
import { RoundRobinBalancer } from './round-robin.ts'

/** Balancers that want to know when requests begin and end say so with `t`. */
export type MadeBalancer =
  | { readonly t: 'stateless'; readonly balancer: Balancer }
  | { readonly t: 'leastRequest'; readonly balancer: LeastRequestBalancer }
  | { readonly t: 'peakEwma'; readonly balancer: PeakEwmaBalancer }

export function makeBalancer(wanted: LoadBalancer, slowStart: SlowStart): MadeBalancer {
  switch (wanted.kind) {
    case 'roundRobin':
      return { t: 'stateless', balancer: new RoundRobinBalancer(slowStart) }
    case 'random':
      return { t: 'stateless', balancer: new RandomBalancer(slowStart) }
    case 'leastRequest':
      return { t: 'leastRequest', balancer: new LeastRequestBalancer(slowStart) }
    case 'peakEwma':
      return { t: 'peakEwma', balancer: new PeakEwmaBalancer(slowStart) }
    case 'consistentHash':
      return { t: 'stateless', balancer: wanted.algorithm === 'ring' ? new RingHashBalancer(wanted.size)
        : new MaglevBalancer(wanted.size) }
  }
}
