// The less loaded of two picked by chance: nearly as good as looking at all, at constant cost, and without the herd that runs to
// the one idle endpoint. Load is requests under way per weight, so that without load
// the picks are in proportion to weight.
import { Sampler, type Balancer, type Endpoint, type PickRequest, type SlowStart } from './balancer.ts'

export class LeastRequestBalancer implements Balancer {
  readonly #sampler: Sampler
  #active = new Map<string, number>()

  constructor({ slowStartMs }: SlowStart) {
    this.#sampler = new Sampler(slowStartMs)
  }

  update(endpoints: readonly Endpoint[]): void {
    this.#active = new Map(endpoints.map(({ id }) => [id, this.#active.get(id) ?? 0]))
    this.#sampler.update(endpoints)
  }

  pick(request: PickRequest): Endpoint | undefined {
    const first = this.#sampler.sample(request)
    if (!first || this.#sampler.endpoints.length === 1) return first
    const second = this.#sampler.sample(request, first)
    if (!second) return first
    return this.#load(second) < this.#load(first) ? second : first
  }

  active(id: string): number {
    return this.#active.get(id) ?? 0
  }

  begin(id: string): void {
    const active = this.#active.get(id)
    if (active !== undefined) this.#active.set(id, active + 1)
  }

  end(id: string): void {
    const active = this.#active.get(id)
    if (active !== undefined && active > 0) this.#active.set(id, active - 1)
  }

  #load(endpoint: Endpoint): number {
    return (this.#active.get(endpoint.id) ?? 0) / this.#sampler.relativeWeight(endpoint)
  }
}
