// How one root follows another without a moment in which two nodes disagree: first the new root joins the trust bundle, then, when
// every node has fetched that bundle, the new signer takes over, and when nothing of the old signer is valid any more the old root
// leaves. Pure decisions; authority.ts keeps the state on disk and does what is decided here.

/** Names of roots; each has one signer below it. Times in milliseconds since 1970. */
export type Rotation =
  | { readonly t: 'steady'; readonly root: string }
  /** Both are trusted, the old one signs. */
  | { readonly t: 'announcing'; readonly root: string; readonly next: string; readonly sinceMs: number; readonly switchAtMs: number }
  /** Both are trusted, the new one (`root`) signs. */
  | { readonly t: 'retiring'; readonly root: string; readonly previous: string; readonly sinceMs: number; readonly retireAtMs: number }

export type Step =
  | { readonly t: 'wait'; readonly untilMs?: number }
  | { readonly t: 'switchSigner'; readonly to: Rotation }
  | { readonly t: 'retire'; readonly root: string; readonly to: Rotation }

export function signerOf(rotation: Rotation): string {
  return rotation.root
}

/** The trust bundle: who signs first. */
export function trustedBy(rotation: Rotation): readonly string[] {
  switch (rotation.t) {
    case 'steady':
      return [rotation.root]
    case 'announcing':
      return [rotation.root, rotation.next]
    case 'retiring':
      return [rotation.root, rotation.previous]
    default:
      return rotation satisfies never
  }
}

export interface Begin {
  readonly next: string
  readonly nowMs: number
  /** When the last certificate that is out now expires: by then each node has renewed, and so has the new bundle. */
  readonly lastExpiryMs: number
  /** The operator's own word on how long the announcement lasts, in place of that. */
  readonly overlapMs?: number
}

/** Undefined while another rotation runs: there is one at a time. */
export function beginRotation(rotation: Rotation, { next, nowMs, lastExpiryMs, overlapMs }: Begin): Rotation | undefined {
  if (rotation.t !== 'steady' || next === rotation.root) return undefined
  const switchAtMs = overlapMs === undefined ? Math.max(nowMs, lastExpiryMs) : nowMs + overlapMs
  return { t: 'announcing', root: rotation.root, next, sinceMs: nowMs, switchAtMs }
}

/** `lastExpiryMs`: when the last certificate of the old signer expires. */
export function nextStep(rotation: Rotation, nowMs: number, lastExpiryMs: number): Step {
  switch (rotation.t) {
    case 'steady':
      return { t: 'wait' }
    case 'announcing': {
      if (nowMs < rotation.switchAtMs) return { t: 'wait', untilMs: rotation.switchAtMs }
      const retireAtMs = Math.max(nowMs, lastExpiryMs)
      return { t: 'switchSigner', to: { t: 'retiring', root: rotation.next, previous: rotation.root, sinceMs: nowMs, retireAtMs } }
    }
    case 'retiring':
      if (nowMs < rotation.retireAtMs) return { t: 'wait', untilMs: rotation.retireAtMs }
      return { t: 'retire', root: rotation.previous, to: { t: 'steady', root: rotation.root } }
    default:
      return rotation satisfies never
  }
}
