// A small shop of services for the tests of this directory, and short ways to say objects and requests; product code never
// imports this.
import type { ManifestKind, ManifestObject } from '../../../model/manifest.ts'
import { object } from '../arbitraries.ts'
import { defaultSettings } from '../settings.ts'
import { headOf, type HeadParts } from '../../../policy/l7/testing.ts'
import { Routes } from '../../../policy/l7/route-table.ts'
import { translateRoutes, type RouteTranslation } from './translate.ts'

export const service = (name: string, ports: readonly object[] = [{ name: 'http', port: 80 }], more: object = {}): ManifestObject =>
  object('Service', name, { spec: { ports, clusterIP: '10.96.0.1', ...more } })
export const make = <K extends ManifestKind>(kind: K, name: string, spec: object, metadata: object = {}): Extract<ManifestObject, { kind: K }> => object(kind, name, { spec }, metadata)

/** `shop/web`, `shop/web-v2` and `other/web` at port 80. */
export const shop: readonly ManifestObject[] = [service('shop/web'), service('shop/web-v2'), service('other/web')]
export const webService = { group: '', kind: 'Service', name: 'web' }
export const backend = (name: string, more: object = {}): object => ({ name, port: 80, ...more })

export function translate(...objects: readonly ManifestObject[]): RouteTranslation {
  return translateRoutes([...shop, ...objects], defaultSettings)
}

export const host = (name: string): string => {
  const [namespace = '', own = ''] = name.split('/')
  return `${own}.${namespace}.svc.cluster.local`
}
/** Key of the tables of a port: `keyOf('shop/web')`. */
export const keyOf = (name: string, port = 80): string => `${name.split('/')[0] ?? ''}/${host(name)}:${port}`

/** Where a request goes that comes to a key: a backend's name, `redirect`, a status, `default`, or 404 for nothing. */
export function answer({ tables }: RouteTranslation, key: string, path: string, parts: HeadParts = {}): string {
  const own = tables.filter((table) => table.key === key)
  if (own.length === 0) return 'default'
  const decision = new Routes(own).match(headOf(path, parts))
  if (decision.t === 'none') return '404'
  if (decision.t === 'default') return 'default'
  const { action } = decision.rule
  switch (action.t) {
    case 'redirect': return 'redirect'
    case 'respond': return String(action.status)
    case 'forward': {
      const usable = action.backends.filter(({ weight }) => weight > 0)
      if (usable.length === 0) return '500'
      return usable.map(({ service: { hostname }, subset, broken }) => (broken === undefined ? `${hostname.split('.')[0] ?? ''}${subset === undefined ? '' : `@${subset}`}` : '500')).join('|')
    }
  }
}

export const conditions = ({ findings }: RouteTranslation, key: string): readonly string[] =>
  (findings.get(key)?.parents ?? []).map(({ accepted, resolvedRefs, partiallyInvalid }) =>
    `${accepted.status ? '' : '!'}${accepted.reason} ${resolvedRefs.status ? '' : '!'}${resolvedRefs.reason}${partiallyInvalid ? ' PartiallyInvalid' : ''}`)
