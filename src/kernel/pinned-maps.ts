// The maps of an instance as they are pinned: found again only where their layout is ours, because a map of another shape would be
// read wrongly.
import { MeshError } from '../core/errors.ts'
import * as layout from './generated/layout.ts'
import { mapNames } from './maps.ts'
import type { MapName, Maps } from './maps.ts'
import { native } from './native.ts'
import type { OwnedFd } from './native.ts'
import type { Pins } from './pins.ts'

export function isMapName(name: string): name is MapName {
  return (mapNames as readonly string[]).includes(name)
}

/** The maps an earlier process pinned, if their layout is ours. `meta` is pinned first, so its hash speaks for all. */
export function pinnedMaps(pins: Pins): Partial<Record<MapName, OwnedFd>> & Record<string, OwnedFd> {
  const found: Record<string, OwnedFd> = {}
  for (const name of mapNames) {
    const fd = pins.get(`maps/${name}`)
    if (fd) found[name] = fd
  }
  const meta = found['meta']
  if (!meta) return found
  const bytes = native().mapLookup(meta, new Uint8Array(4))
  const hash = bytes ? Buffer.from(layout.readMeta(bytes).layoutHash).toString('hex') : ''
  if (hash === layout.layoutHash) return found
  for (const fd of Object.values(found)) fd.close()
  throw new MeshError('LAYOUT_MISMATCH', `maps pinned in ${pins.directory} have layout ${hash.slice(0, 12)}, this version has ${layout.layoutHash.slice(0, 12)}`)
}

export function allMaps(found: Partial<Record<MapName, OwnedFd>>): Record<MapName, OwnedFd> {
  const missing = mapNames.find((name) => found[name] === undefined)
  if (missing !== undefined) throw new MeshError('KERNEL_UNSUPPORTED', `the loaded objects have no map ${missing}`)
  return found as Record<MapName, OwnedFd>
}

export function pinMaps(pins: Pins, maps: Maps): void {
  const pinned = new Set(pins.list('maps'))
  if (!pinned.has('meta')) maps.meta.set(0, { layoutHash: Buffer.from(layout.layoutHash, 'hex') })
  for (const name of ['meta', ...mapNames.filter((each) => each !== 'meta')] as const) {
    if (!pinned.has(name)) pins.pin(maps.fds[name as MapName], `maps/${name}`)
  }
}
