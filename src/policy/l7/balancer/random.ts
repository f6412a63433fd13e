// By chance, in proportion to weight: the fairest that needs no state.
import { Sampler, type Balancer, type Endpoint, type PickRequest, type SlowStart } from './balancer.ts'

export class RandomBalancer implements Balancer {
  readonly #sampler: Sampler

  constructor({ slowStartMs }: SlowStart) {
    this.#sampler = new Sampler(slowStartMs)
  }

  update(endpoints: readonly Endpoint[]): void {
    this.#sampler.update(endpoints)
  }

  pick(request: PickRequest): Endpoint | undefined {
    return this.#sampler.sample(request)
  }
}
