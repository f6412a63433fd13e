// Whom CUSTOM policies ask: AuthorizationProviders by name, in the policy's own namespace or, as `namespace/name`, in a root
// namespace, so that nobody's requests are shown to a provider that neither they nor the mesh's owner chose.
import { objectKey, type AuthorizationProviderManifest } from '../../../model/manifest.ts'
import type { AuthorizationProvider } from '../../../model/waypoint-config.ts'
import { isVisible } from '../routes/backends.ts'
import type { Findings } from '../routes/findings.ts'
import { fullName } from '../routes/order.ts'
import type { World } from '../routes/world.ts'
import type { NamedProvider } from './authorization-l7.ts'

export class Providers {
  readonly #byKey = new Map<string, AuthorizationProvider>()
  readonly #rootNamespaces: readonly string[]

  constructor(objects: readonly AuthorizationProviderManifest[], world: World, findings: Findings) {
    this.#rootNamespaces = world.settings.rootNamespaces
    for (const object of objects) this.#byKey.set(fullName(object), providerOf(object, world, findings))
  }

  /** What a policy in a namespace means by a name. */
  named(name: string | undefined, namespace: string): NamedProvider {
    if (name === undefined || name === '') return { missing: 'the action CUSTOM needs provider.name' }
    const slash = name.indexOf('/')
    const key = slash < 0 ? `${namespace}/${name}` : name
    const from = key.slice(0, key.indexOf('/'))
    if (from !== namespace && !this.#rootNamespaces.includes(from)) {
      return { missing: `the AuthorizationProvider ${key} is neither of its own namespace nor of a root namespace` }
    }
    return this.#byKey.has(key) ? { key } : { missing: `there is no AuthorizationProvider ${key}` }
  }

  get(key: string): AuthorizationProvider | undefined {
    return this.#byKey.get(key)
  }
}

function providerOf(object: AuthorizationProviderManifest, world: World, findings: Findings): AuthorizationProvider {
  const { spec, metadata: { namespace } } = object
  const hostname = world.fullHost(spec.service, namespace)
  const found = world.byHost(hostname, namespace)
  const target = found && isVisible(found, namespace) ? found : undefined
  const instead = spec.failOpen ? 'everything is let through' : `everything is answered ${spec.statusOnError}`
  const problem = (text: string): void => findings.problem(objectKey(object), `${text}: ${instead}`)
  if (!target) problem(`there is no service with the host ${hostname}`)
  else if (!target.ports.some(({ number }) => number === spec.port)) problem(`${target.key} has no port ${spec.port}`)
  return {
    name: fullName(object),
    protocol: spec.protocol === 'GRPC' ? 'grpc' : 'http',
    service: target?.key ?? `${namespace}/${hostname}`,
    port: spec.port,
    timeoutMs: spec.timeout,
    isFailOpen: spec.failOpen,
    pathPrefix: spec.pathPrefix,
    includeRequestHeaders: spec.includeRequestHeaders,
    headersToUpstream: spec.headersToUpstream,
    headersToDownstream: spec.headersToDownstream,
    bodyBytes: spec.maxBodyBytes,
    statusOnError: spec.statusOnError,
  }
}
