// Which parts of which Secrets and ConfigMaps one gateway is told: a private key only to who presents the certificate,
// authorities only to who verifies with them.
import { objectKey, type ConfigMapManifest, type SecretManifest } from '../../../model/manifest.ts'
import type { WaypointResource } from '../../../model/waypoint-config.ts'
import type { Findings } from '../routes/findings.ts'
import { getOrMake } from '../selectors.ts'
import { tlsContent } from './certificates.ts'

type Part = 'certificate' | 'authorities'
type SecretResource = Extract<WaypointResource, { readonly kind: 'secret' }>

export class Secrets {
  readonly #all: ReadonlyMap<string, SecretManifest | ConfigMapManifest>
  readonly #wanted: Set<string>
  readonly #used = new Map<string, Set<Part>>()

  /** `all` by object key. `wanted` gets the keys of those that are asked for, whether they are there or not. */
  constructor(all: ReadonlyMap<string, SecretManifest | ConfigMapManifest>, wanted: Set<string>) {
    this.#all = all
    this.#wanted = wanted
  }

  /** Why that part cannot be used; undefined if it can. */
  use(key: string, part: Part): string | undefined {
    this.#wanted.add(key)
    const object = this.#all.get(key)
    if (!object) return `there is no ${key}`
    const { certificate, authorities, certificateProblem, authoritiesProblem } = tlsContent(object)
    getOrMake(this.#used, key, () => new Set<Part>()).add(part)
    if ((part === 'certificate' ? certificate : authorities) !== undefined) return undefined
    const why = part === 'certificate' ? certificateProblem ?? 'tls.crt and tls.key are missing' : authoritiesProblem ?? 'ca.crt is missing'
    return `the ${key} cannot be used: ${why}`
  }

  *resources(): Generator<SecretResource> {
    for (const [key, parts] of [...this.#used].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const object = this.#all.get(key)
      const { certificate, authorities } = object ? tlsContent(object) : {}
      yield {
        kind: 'secret', key,
        ...(certificate && parts.has('certificate') ? { certificate } : {}),
        ...(authorities !== undefined && parts.has('authorities') ? { authorities } : {}),
      }
    }
  }
}

/** Of what says itself that it is for TLS; others are looked at where somebody names them. */
export function remarkSecrets(objects: Iterable<SecretManifest | ConfigMapManifest>, findings: Findings): void {
  for (const object of objects) {
    if (object.kind !== 'Secret' || object.type !== 'kubernetes.io/tls') continue
    const { certificateProblem, authoritiesProblem } = tlsContent(object)
    for (const problem of [certificateProblem, authoritiesProblem]) {
      if (problem !== undefined) findings.problem(objectKey(object), problem)
    }
  }
}
