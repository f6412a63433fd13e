// The CA's files in a Secret, shared by all replicas of the control plane: whoever manages to make it first made the CA, others read
// it. Every change says from which version it was made, and fails where somebody else was faster. Keys are in memory and in the
// Secret, on no disk. A Secret that lacks something is an error that names it; it is never made anew over what was there.
import { isDeepStrictEqual } from 'node:util'
import { describeError, MeshError } from '../../core/errors.ts'
import type { Logger } from '../../core/log.ts'
import { isConflict, isNotFound } from '../../kube/answers.ts'
import { resourcePath, type KubeApi, type KubeObject, type ResourceType } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { ListWatch } from '../../kube/list-watch.ts'
import { caSecret } from '../../model/kubernetes-names.ts'
import {
  firstState, newSigner, ownRoot, ownStateFile, signerFiles, signersOf, stateFile, stateOf, stateText,
  type AuthorityState, type AuthorityStore, type Signer,
} from '../../pki/authority-store.ts'
import { trustedBy, type Rotation } from '../../pki/rotation.ts'
import { isRecord } from './slim.ts'

const type: ResourceType = { group: '', version: 'v1', plural: 'secrets', kind: 'Secret', namespaced: true }
type Files = ReadonlyMap<string, string>

export interface CaSecretOptions {
  readonly api: Pick<KubeApi, 'get' | 'create' | 'replace'>
  readonly namespace: string
  readonly logger: Logger
}

export class CaSecret implements AuthorityStore {
  readonly #options: CaSecretOptions
  readonly #where: string
  /** As it was read or written last; undefined: there is no Secret. */
  #object: KubeObject | undefined
  #files: Files = new Map()
  /** New keys, which nobody has seen before a state that names them is saved. */
  #staged: Files = new Map()
  #wasThere = false

  constructor(options: CaSecretOptions) {
    this.#options = options
    this.#where = `the Secret ${options.namespace}/${caSecret}`
  }

  get version(): string | undefined {
    return this.#object?.metadata.resourceVersion
  }

  async open(trustDomain: string, nowMs: number): Promise<AuthorityState> {
    await this.#read()
    const isNew = this.#files.size === 0 && !this.#wasThere
    if (isNew) await this.#make(trustDomain, nowMs)
    this.#wasThere = true
    return stateOf(this.#files.get(stateFile), this.#where, stateFile, [...this.#files.keys()], trustDomain)
  }

  async #make(trustDomain: string, nowMs: number): Promise<void> {
    const { name, files } = await newSigner(trustDomain, nowMs)
    const { file, text } = stateText(firstState(trustDomain, name))
    if (await this.#write(new Map([...files, [file, text]]))) {
      this.#options.logger.info({ secret: this.#where, root: name }, 'certificate authority made')
    } else await this.#read()
  }

  async openOwn(trustDomain: string): Promise<AuthorityState> {
    await this.#read()
    const text = this.#files.get(ownStateFile)
    return text === undefined ? firstState(trustDomain, ownRoot) : stateOf(text, this.#where, ownStateFile, [...this.#files.keys()], trustDomain)
  }

  signers(rotation: Rotation): Promise<Map<string, Signer>> {
    const read = async (file: string): Promise<string> => {
      const text = this.#files.get(file) ?? this.#staged.get(file)
      if (text === undefined) throw new MeshError('BAD_CONFIG', `${file} is missing in ${this.#where}. Restore it, or delete the Secret for a new CA that no node trusts yet`)
      return text
    }
    return signersOf(rotation, { nameOf: (file) => `${file} in ${this.#where}`, certificate: read, key: read })
  }

  async createSigner(trustDomain: string, nowMs: number): Promise<string> {
    const { name, files } = await newSigner(trustDomain, nowMs)
    this.#staged = files
    return name
  }

  async save(state: AuthorityState): Promise<boolean> {
    const { file, text } = stateText(state)
    const files = new Map([...this.#files, ...this.#staged, [file, text]])
    // Keys of a root that nobody is to trust any more are worth nothing to us, and something to others.
    if (file === stateFile) {
      const kept = new Set(trustedBy(state.rotation).flatMap((root) => Object.values(signerFiles(root))))
      for (const each of files.keys()) if (/^(root|intermediate)-/.test(each) && !kept.has(each)) files.delete(each)
    }
    const isSaved = await this.#write(files)
    this.#staged = new Map()
    return isSaved
  }

  async #read(): Promise<void> {
    const { api, namespace } = this.#options
    this.#staged = new Map()
    let object: KubeObject
    try {
      object = await api.get(resourcePath(type, { namespace, name: caSecret }))
    } catch (error) {
      if (!isNotFound(error)) throw error
      this.#object = undefined
      // Taken away while we run: what we know stays in force, and the next change writes it again.
      if (this.#wasThere) this.#options.logger.error({ secret: this.#where }, 'the secret of the certificate authority is gone')
      else this.#files = new Map()
      return
    }
    this.#object = object
    this.#files = filesOf(object)
  }

  /** False if somebody else was faster. */
  async #write(files: Files): Promise<boolean> {
    const { api, namespace } = this.#options
    const data = Object.fromEntries([...files].map(([file, text]) => [file, Buffer.from(text).toString('base64')]))
    const before = this.#object
    const object = {
      apiVersion: 'v1', kind: 'Secret', type: 'Opaque',
      ...before,
      metadata: before?.metadata ?? { name: caSecret, namespace, labels: { 'app.kubernetes.io/part-of': 'sidestep' } },
      data,
    }
    try {
      // The resourceVersion among the metadata makes it fail if it is not the newest.
      this.#object = before
        ? await api.replace(resourcePath(type, { namespace, name: caSecret }), object)
        : await api.create(resourcePath(type, { namespace }), object)
    } catch (error) {
      if (isConflict(error) || (before && isNotFound(error))) return false
      throw error
    }
    this.#files = files
    this.#wasThere = true
    return true
  }
}

function filesOf({ data }: KubeObject): Files {
  const entries = isRecord(data) ? Object.entries(data) : []
  return new Map(entries.flatMap(([file, text]) => (typeof text === 'string' ? [[file, Buffer.from(text, 'base64').toString('utf8')] as const] : [])))
}

/** Tells of each change of the Secret that was not made by this process. Returns how to stop. */
export function watchCaSecret(secret: CaSecret, api: WatchApi, namespace: string, logger: Logger, onChange: () => Promise<void>): () => void {
  let seen: unknown
  const watch = new ListWatch<KubeObject>({
    api, log: logger, type, namespace, fieldSelector: `metadata.name=${caSecret}`,
    trim: (object) => (object.metadata.name === caSecret ? object : undefined),
    listener: {
      put: (_name, object) => {
        // Only what is in it counts; and nothing of it is kept here.
        if (object.metadata.resourceVersion === secret.version || isDeepStrictEqual(seen, object.metadata.resourceVersion)) return
        seen = object.metadata.resourceVersion
        onChange().catch((error: unknown) => logger.error({ because: describeError(error) }, 'the certificate authority cannot be read anew, what is known stays in force'))
      },
      remove: () => logger.error({ secret: `${namespace}/${caSecret}` }, 'the secret of the certificate authority is gone, what is known stays in force'),
    },
  })
  watch.start()
  return () => watch.close()
}
