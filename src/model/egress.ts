// What becomes of connections from the mesh to destinations that nobody in the mesh knows, and how a namespace says so: pure
// data. The verdict is in src/policy/egress.ts.

export const egressLabel = 'sidestep.dev/egress'

/** `audit` lets it pass and counts and logs each one. */
const egressModes = ['allow', 'audit', 'deny'] as const
export type EgressMode = (typeof egressModes)[number]
/** `unreadable`: something was said that is none of the modes, so it was something other than the default. */
export type EgressSetting = EgressMode | 'unreadable'

/** What a namespace says; undefined if nothing. */
export function egressSetting(namespaceLabels: Readonly<Record<string, string>>): EgressSetting | undefined {
  const text = Object.hasOwn(namespaceLabels, egressLabel) ? namespaceLabels[egressLabel] : undefined
  if (text === undefined) return undefined
  return egressModes.find((mode) => mode === text) ?? 'unreadable'
}
