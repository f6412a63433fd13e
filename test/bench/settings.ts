// How much is measured: enough to see a tenth, or just enough to see that it works.
import { fullKubernetes, quickKubernetes } from './kubernetes-world.ts'
import type { KubernetesSize } from './kubernetes-world.ts'
import type { PartName } from './report.ts'
import { fullScale, quickScale } from './scale-world.ts'
import type { ScaleSize } from './scale-world.ts'
import type { Undo } from './undo.ts'

export interface Settings {
  readonly parts: ReadonlySet<PartName>
  readonly rounds: number
  /** Measurements of connections that are not counted: what a fresh process compiles, a running one has compiled. */
  readonly warmUps: number
  /** Of one measurement. */
  readonly seconds: number
  /** Open connections at which memory is read. */
  readonly held: readonly number[]
  readonly pods: number
  readonly hookRounds: number
  readonly settleMs: number
  readonly scale: ScaleSize
  readonly kubernetes: KubernetesSize
  /** Of requests: numbers of routes, and what differs from the above. */
  readonly requests: { readonly routes: readonly number[]; readonly rounds: number; readonly warmUps: number; readonly seconds: number }
}

export const full = {
  rounds: 5, warmUps: 5, seconds: 2, held: [0, 1_000, 8_000], pods: 250, hookRounds: 12, settleMs: 2_000, scale: fullScale, kubernetes: fullKubernetes,
  requests: { routes: [10, 100, 1_000, 10_000], rounds: 3, warmUps: 3, seconds: 3 },
} as const
export const quick = {
  rounds: 1, warmUps: 0, seconds: 1, held: [0, 50, 200], pods: 12, hookRounds: 2, settleMs: 300, scale: quickScale, kubernetes: quickKubernetes,
  requests: { routes: [10, 20], rounds: 1, warmUps: 1, seconds: 2 },
} as const

/** What a part is given. */
export interface Bench extends Settings {
  readonly undo: Undo
  /** One line for whoever watches. */
  progress(text: string): void
}
