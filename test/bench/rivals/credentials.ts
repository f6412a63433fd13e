// One certificate authority and two identities for all that encrypts in the bench, so that every row pays for the same
// keys: ECDSA P-256, signed by the mesh's own authority. For the bench only; everything lies in a directory that it removes.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CertifiedKey } from '../../../src/core/certificates.ts'
import { MeshError } from '../../../src/core/errors.ts'
import { formatIdentity } from '../../../src/core/identity.ts'
import type { Identity } from '../../../src/core/identity.ts'
import { silentLogger } from '../../../src/core/log.ts'
import { Authority } from '../../../src/pki/authority.ts'
import { certifiedKey } from '../../../src/pki/certified-key.ts'
import { makeCsr, newKey } from '../../../src/pki/csr.ts'

export const trustDomain = 'cluster.local'
export const identities = {
  client: { trustDomain, namespace: 'bench', serviceAccount: 'client' },
  server: { trustDomain, namespace: 'bench', serviceAccount: 'server' },
} as const satisfies Record<string, Identity>
export type Role = keyof typeof identities

/** Paths of PEM files. */
export interface CredentialFiles {
  readonly chain: string
  readonly key: string
  readonly roots: string
}

export interface Credentials {
  readonly certified: CertifiedKey
  readonly files: CredentialFiles
}

/** `serving`: for nginx, which can compare the name of a host and no other. */
export type AllCredentials = Readonly<Record<Role, Credentials>> & { readonly serving: CredentialFiles }

export const servingName = 'bench.internal'

/** Makes all certificates below `directory`, and the authority unless it is a mesh's. */
export async function makeCredentials(directory: string, authorityDirectory = join(directory, 'ca')): Promise<AllCredentials> {
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const authority = await Authority.open({ trustDomain, directory: authorityDirectory, maySign: () => true, logger: silentLogger })
  const issue = async (role: Role): Promise<Credentials> => {
    const identity = identities[role]
    const key = await newKey()
    const answer = await authority.sign({ csrPem: await makeCsr(identity, key), ttlSeconds: 86_400, caller: { node: 'bench' } })
    if (answer.t === 'refused') throw new MeshError('BAD_CONFIG', `no certificate for ${formatIdentity(identity)}: ${answer.message}`)
    const certified = certifiedKey([...answer.chainPem, answer.rootsPem.join('')], identity, key, Date.now())
    return { certified, files: write(directory, role, { ...certified }) }
  }
  const serving = await authority.issueServing({ dns: [servingName], ips: [] })
  return {
    client: await issue('client'), server: await issue('server'),
    serving: write(directory, 'serving', { ...serving, rootsPem: authority.rootsPem() }),
  }
}

function write(directory: string, owner: string, { chainPem, key, rootsPem }: Pick<CertifiedKey, 'chainPem' | 'key' | 'rootsPem'>): CredentialFiles {
  const file = (name: string, text: string): string => {
    const path = join(directory, `${owner}-${name}.pem`)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }
  return {
    chain: file('chain', chainPem), key: file('key', key.export({ type: 'pkcs8', format: 'pem' }).toString()), roots: file('roots', rootsPem.join('')),
  }
}
