// Where the API server is and how we prove who we are: from a kubeconfig or from the service account of the pod we run in. What
// rotates (tokens, roots, certificates of plugins) is read anew as it is asked for. Secrets leave this file only for the request.
//
// @kubernetes/client-node could load this too; importing it costs 85 MB and more than a second in every process of ours.
import { readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { parse } from 'yaml'
import { z } from 'zod'
import { systemClock, type Clock } from '../core/clock.ts'
import { describeError, MeshError } from '../core/errors.ts'
import { execCredentials, execSchema } from './exec-credentials.ts'

export interface TlsMaterial {
  /** PEM; the system's roots if absent. */
  readonly ca?: string
  readonly cert?: string
  readonly key?: string
  /** What the server's certificate must be for, if not the host of the URL. */
  readonly servername?: string
  readonly isVerified: boolean
}

export interface KubeConnection {
  /** `https://host:port`, without a slash at the end; a path prefix may follow. */
  readonly server: string
  /** The namespace to use where nothing else is said. */
  readonly namespace: string
  /** For people: `in-cluster`, or the files. */
  readonly origin: string
  /** The same object as long as nothing changed. */
  tls(): Promise<TlsMaterial>
  /** Value of the Authorization header. `isRefused`: the last one was answered with 401, so look again. */
  authorization(isRefused: boolean): Promise<string | undefined>
}

export interface ConnectionOptions {
  /** As in process.env: KUBECONFIG, HOME, KUBERNETES_SERVICE_HOST and _PORT are looked at; plugins of a kubeconfig get all of it. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Of a kubeconfig, other than its current one. */
  readonly context?: string
  /** Where a pod finds its service account. */
  readonly serviceAccountDirectory?: string
  readonly clock?: Clock
}

const serviceAccountDirectory = '/var/run/secrets/kubernetes.io/serviceaccount'
/** Kubelets renew tokens long before they end, so looking once a minute is often enough. */
const rereadMs = 60_000
const largestFileBytes = 4 << 20

function bad(message: string, cause?: unknown): MeshError {
  return new MeshError('BAD_CONFIG', message, cause === undefined ? {} : { cause })
}

/**
 * KUBECONFIG where that is set; else the pod's service account; else `~/.kube/config`. Rejects with BAD_CONFIG where none of them is
 * there or one cannot be understood.
 */
export async function loadConnection(options: ConnectionOptions): Promise<KubeConnection> {
  const { environment } = options
  const named = (environment['KUBECONFIG'] ?? '').split(':').filter((path) => path !== '')
  if (named.length > 0) return kubeconfigConnection(named, options)
  const host = environment['KUBERNETES_SERVICE_HOST']
  if (host !== undefined && host !== '') return inClusterConnection(host, environment['KUBERNETES_SERVICE_PORT'] ?? '443', options)
  const home = environment['HOME']
  if (home === undefined || home === '') throw bad('neither KUBECONFIG nor a service account tells where the Kubernetes API is')
  return kubeconfigConnection([join(home, '.kube/config')], options)
}

/** A file that is replaced from time to time. What was read last stays in force while the file cannot be read. */
class RotatingFile {
  readonly #path: string
  readonly #clock: Clock
  #text: string | undefined
  #readMs = 0

  constructor(path: string, clock: Clock) {
    this.#path = path
    this.#clock = clock
  }

  async text(isStale = false): Promise<string> {
    const now = this.#clock.monotonicMs()
    if (this.#text !== undefined && !isStale && now - this.#readMs < rereadMs) return this.#text
    try {
      this.#text = await readBounded(this.#path)
      this.#readMs = now
    } catch (cause) {
      if (this.#text === undefined) throw bad(`cannot read ${this.#path}`, cause)
    }
    return this.#text
  }
}

async function readBounded(path: string): Promise<string> {
  const text = await readFile(path, 'utf8')
  if (text.length > largestFileBytes) throw bad(`${path} is too large`)
  return text
}

/** Newlines or anything else that is no header are refused here, before a library quotes them. */
function bearer(token: string): string {
  const trimmed = token.trim()
  if (!/^[\x21-\x7e]+$/.test(trimmed)) throw bad('the token for the Kubernetes API is empty or has characters that no token has')
  return `Bearer ${trimmed}`
}

async function inClusterConnection(host: string, port: string, options: ConnectionOptions): Promise<KubeConnection> {
  const directory = options.serviceAccountDirectory ?? serviceAccountDirectory
  const clock = options.clock ?? systemClock
  const token = new RotatingFile(join(directory, 'token'), clock)
  const ca = new RotatingFile(join(directory, 'ca.crt'), clock)
  await Promise.all([token.text(), ca.text()])
  // Projected volumes of our own manifests may leave the namespace out.
  const namespace = await readBounded(join(directory, 'namespace')).catch(() => 'default')
  let material: TlsMaterial = { ca: await ca.text(), isVerified: true }
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    namespace: namespace.trim(),
    origin: 'in-cluster',
    tls: async () => {
      const text = await ca.text()
      if (text !== material.ca) material = { ca: text, isVerified: true }
      return material
    },
    authorization: async (isRefused) => bearer(await token.text(isRefused)),
  }
}

const text = z.string().max(largestFileBytes)
const clusterSchema = z.looseObject({
  server: text,
  'certificate-authority': text.optional(),
  'certificate-authority-data': text.optional(),
  'insecure-skip-tls-verify': z.boolean().optional(),
  'tls-server-name': text.optional(),
  'proxy-url': text.optional(),
})
const userSchema = z.looseObject({
  'client-certificate': text.optional(),
  'client-certificate-data': text.optional(),
  'client-key': text.optional(),
  'client-key-data': text.optional(),
  token: text.optional(),
  tokenFile: text.optional(),
  username: text.optional(),
  password: text.optional(),
  exec: execSchema.nullish(),
  'auth-provider': z.unknown().optional(),
})
const contextSchema = z.looseObject({ cluster: text, user: text.optional(), namespace: text.optional() })
const kubeconfigSchema = z.looseObject({
  'current-context': text.nullish(),
  clusters: z.array(z.looseObject({ name: text, cluster: clusterSchema })).nullish(),
  users: z.array(z.looseObject({ name: text, user: userSchema.nullish() })).nullish(),
  contexts: z.array(z.looseObject({ name: text, context: contextSchema })).nullish(),
})

interface Found<T> {
  readonly value: T
  /** Relative paths are relative to the file that says them. */
  readonly directory: string
}

interface Merged {
  current: string | undefined
  readonly clusters: Map<string, Found<z.infer<typeof clusterSchema>>>
  readonly users: Map<string, Found<z.infer<typeof userSchema>>>
  readonly contexts: Map<string, Found<z.infer<typeof contextSchema>>>
}

/** As kubectl merges them: who says something first is right, and a file that is not there says nothing. */
async function merge(paths: readonly string[]): Promise<Merged> {
  const merged: Merged = { current: undefined, clusters: new Map(), users: new Map(), contexts: new Map() }
  let isAnyThere = false
  for (const path of paths) {
    let content: string
    try {
      content = await readBounded(path)
    } catch (cause) {
      if (paths.length > 1 && (cause as NodeJS.ErrnoException).code === 'ENOENT') continue
      throw bad(`cannot read the kubeconfig ${path}: ${describeError(cause)}`)
    }
    isAnyThere = true
    let parsed: z.infer<typeof kubeconfigSchema>
    try {
      parsed = kubeconfigSchema.parse(parse(content, { logLevel: 'error' }) ?? {})
    } catch (cause) {
      // The parser's words, and its warnings, would quote the file with its keys.
      const where = cause instanceof z.ZodError ? `: ${cause.issues[0]?.path.join('.') ?? ''}: ${cause.issues[0]?.message ?? ''}` : ''
      throw bad(`the kubeconfig ${path} cannot be understood${where}`)
    }
    const directory = dirname(resolve(path))
    merged.current ??= parsed['current-context'] || undefined
    const add = <T>(map: Map<string, Found<T>>, name: string, value: T): void => {
      if (!map.has(name)) map.set(name, { value, directory })
    }
    for (const entry of parsed.clusters ?? []) add(merged.clusters, entry.name, entry.cluster)
    for (const entry of parsed.users ?? []) add(merged.users, entry.name, entry.user ?? {})
    for (const entry of parsed.contexts ?? []) add(merged.contexts, entry.name, entry.context)
  }
  if (!isAnyThere) throw bad(`there is no kubeconfig ${paths.join(':')}`)
  return merged
}

async function kubeconfigConnection(paths: readonly string[], options: ConnectionOptions): Promise<KubeConnection> {
  const merged = await merge(paths)
  const contextName = options.context ?? merged.current
  if (contextName === undefined) throw bad(`the kubeconfig ${paths.join(':')} has no current-context`)
  const context = merged.contexts.get(contextName)?.value
  if (!context) throw bad(`the kubeconfig ${paths.join(':')} has no context ${contextName}`)
  const cluster = merged.clusters.get(context.cluster)
  if (!cluster) throw bad(`the kubeconfig ${paths.join(':')} has no cluster ${context.cluster}`)
  const user = context.user === undefined || context.user === '' ? undefined : merged.users.get(context.user)
  if (context.user && !user) throw bad(`the kubeconfig ${paths.join(':')} has no user ${context.user}`)
  const server = checkedServer(cluster.value.server)
  if (cluster.value['proxy-url']) throw bad(`the cluster ${context.cluster} is behind a proxy-url, which is not supported`)
  const secrets = await readUser(user, context.user ?? '', options)
  const ca = await dataOrFile(cluster, 'certificate-authority-data', 'certificate-authority')
  const servername = cluster.value['tls-server-name']
  const base = {
    ...(ca !== undefined && { ca }),
    ...(servername && { servername }),
    isVerified: cluster.value['insecure-skip-tls-verify'] !== true,
  }
  let material: TlsMaterial | undefined
  return {
    server,
    namespace: context.namespace || 'default',
    origin: paths.join(':'),
    tls: async () => {
      const pair = await secrets.certificate()
      if (!material || material.cert !== pair?.cert || material.key !== pair?.key) material = { ...base, ...pair }
      return material
    },
    authorization: (isRefused) => secrets.authorization(isRefused),
  }
}

function checkedServer(server: string): string {
  let url: URL
  try {
    url = new URL(server)
  } catch {
    throw bad(`the server ${JSON.stringify(server)} of the kubeconfig is no URL`)
  }
  const shown = JSON.stringify(server)
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw bad(`the server ${shown} of the kubeconfig is neither https nor http`)
  // kubectl proxy; anywhere else a token would be there for the taking.
  if (url.protocol === 'http:' && !['localhost', '127.0.0.1', '[::1]'].includes(url.hostname)) {
    throw bad(`the server ${shown} of the kubeconfig speaks http, which is for this machine alone`)
  }
  return `${url.origin}${url.pathname.replace(/\/+$/, '')}`
}

type Fields = Readonly<Record<string, unknown>>

async function dataOrFile({ value, directory }: Found<Fields>, data: string, file: string): Promise<string | undefined> {
  const inline = value[data]
  if (typeof inline === 'string' && inline !== '') return Buffer.from(inline, 'base64').toString('utf8')
  const path = value[file]
  if (typeof path !== 'string' || path === '') return undefined
  try {
    return await readBounded(resolve(directory, path))
  } catch (cause) {
    throw bad(`cannot read ${path}, which the kubeconfig names as ${file}`, cause)
  }
}

interface UserSecrets {
  certificate(): Promise<{ readonly cert: string; readonly key: string } | undefined>
  authorization(isRefused: boolean): Promise<string | undefined>
}

type User = z.infer<typeof userSchema>

async function readUser(user: Found<User> | undefined, name: string, options: ConnectionOptions): Promise<UserSecrets> {
  if (!user) return { certificate: async () => undefined, authorization: async () => undefined }
  const { value } = user
  const { environment, clock = systemClock } = options
  if (value['auth-provider']) throw bad(`the user ${name} of the kubeconfig has an auth-provider, which Kubernetes gave up in 1.26`)
  if (value.exec) {
    const exec = execCredentials(value.exec, { environment, directory: user.directory, clock })
    return {
      certificate: async () => (await exec(false)).certificate,
      authorization: async (isRefused) => {
        const { token } = await exec(isRefused)
        return token === undefined ? undefined : bearer(token)
      },
    }
  }
  const cert = await dataOrFile(user, 'client-certificate-data', 'client-certificate')
  const key = await dataOrFile(user, 'client-key-data', 'client-key')
  if ((cert === undefined) !== (key === undefined)) throw bad(`the user ${name} of the kubeconfig has half of a certificate and its key`)
  const certificate = cert === undefined || key === undefined ? undefined : { cert, key }
  return { certificate: async () => certificate, authorization: authorizationOf(value, user.directory, clock) }
}

function authorizationOf(user: User, directory: string, clock: Clock): UserSecrets['authorization'] {
  const { token, tokenFile, username, password } = user
  if (token) return async () => bearer(token)
  if (tokenFile) {
    const file = new RotatingFile(resolve(directory, tokenFile), clock)
    return async (isRefused) => bearer(await file.text(isRefused))
  }
  if (!username) return async () => undefined
  const basic = `Basic ${Buffer.from(`${username}:${password ?? ''}`).toString('base64')}`
  return async () => basic
}
