// One row of what `sidestep check` shows: something that this kernel or host has or lacks. Pure data, so that the command
// line can print what the kernel room found without touching the kernel.

/** `warn`: it works, but less well; `fail`: Sidestep cannot run; `info`: nothing depends on it. */
export type FeatureStatus = 'pass' | 'warn' | 'fail' | 'info'

export interface Feature {
  readonly name: string
  readonly status: FeatureStatus
  /** What this machine has, in a few words. */
  readonly found: string
  /** Why Sidestep needs it. */
  readonly why: string
  /** What to do about a warn or fail; a full sentence. */
  readonly fix?: string
}

/** Whether Sidestep can run: no row failed. */
export function isUsable(features: readonly Feature[]): boolean {
  return features.every((feature) => feature.status !== 'fail')
}
