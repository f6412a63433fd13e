// What becomes of connections from the mesh to destinations that nobody in the mesh knows, and how a namespace says so: pure
// data. The verdict is in src/policy/egress.ts.
import { z } from 'zod'

export const egressLabel = 'sidestep.dev/egress'

/** `audit` lets it pass and counts and logs each one. */
export const egressModeSchema = z.enum(['allow', 'audit', 'deny'])
export type EgressMode = z.infer<typeof egressModeSchema>

/** What a namespace says; undefined if nothing. `unreadable` has the text of a label that is none of the modes. */
export type EgressSetting =
  | { readonly t: 'mode'; readonly mode: EgressMode }
  | { readonly t: 'unreadable'; readonly text: string }

export function egressSetting(namespaceLabels: Readonly<Record<string, string>>): EgressSetting | undefined {
  const text = namespaceLabels[egressLabel]
  if (text === undefined) return undefined
  const mode = egressModeSchema.safeParse(text)
  return mode.success ? { t: 'mode', mode: mode.data } : { t: 'unreadable', text }
}
