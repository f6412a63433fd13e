// A node's side of the certificate service. Token and roots are asked for at each request, because both are files that others
// replace; a new root makes a new connection. Each request ends by itself, within its deadline.
import { Client, Metadata, credentials, status } from '@grpc/grpc-js'
import type { ServiceError } from '@grpc/grpc-js'
import { MeshError } from '../core/errors.ts'
import { formatIdentity } from '../core/identity.ts'
import { createCertificateMethod, decodeResponse, encodeRequest } from './ca-wire.ts'
import type { CertificateAuthorityClient, CertificateRequest } from './certificates.ts'

export interface CaClientOptions {
  /** `host:port`. */
  readonly address: string
  /** Name in the server's certificate where it is not the host of `address`. */
  readonly serverName?: string
  /** Trust roots in PEM; undefined means those of the system. */
  readonly roots: () => Promise<string | undefined>
  /** Bearer token; undefined sends none. */
  readonly token?: () => Promise<string | undefined>
  readonly clusterId?: string
  /** Further metadata of each call. */
  readonly headers?: Readonly<Record<string, string>>
  readonly timeoutMs?: number
  /** Ask in the name of the node for each workload (ztunnel), or in the caller's own name. */
  readonly isImpersonating?: boolean
}

/** A chain of a few certificates and roots. */
const maxResponseBytes = 1024 * 1024
/** Answers of the CA itself; everything else is trouble on the way to it. */
const refusals: ReadonlySet<number> = new Set([
  status.INVALID_ARGUMENT, status.PERMISSION_DENIED, status.UNAUTHENTICATED, status.FAILED_PRECONDITION,
])

interface Channel {
  readonly client: Client
  readonly roots: string | undefined
  calls: number
  isOld: boolean
}

export class CaClient implements CertificateAuthorityClient {
  readonly #options: CaClientOptions
  #channel: Channel | undefined
  #isClosed = false

  constructor(options: CaClientOptions) {
    this.#options = options
  }

  /** Rejects with CERTIFICATE_REFUSED (the CA says no, and why) or CERTIFICATE_UNAVAILABLE. */
  async request({ identity, csrPem, ttlSeconds }: CertificateRequest): Promise<readonly string[]> {
    const { roots, token, clusterId, headers = {}, timeoutMs = 10_000, isImpersonating = true } = this.#options
    const [rootsPem, bearer] = await Promise.all([roots(), token?.()])
    const metadata = new Metadata()
    if (bearer !== undefined) metadata.set('authorization', `Bearer ${bearer.trim()}`)
    if (clusterId !== undefined) metadata.set('clusterid', clusterId)
    for (const [name, value] of Object.entries(headers)) metadata.set(name, value)
    const uri = formatIdentity(identity)
    const request = encodeRequest({ csrPem, ttlSeconds, ...(isImpersonating && { impersonated: uri }) })
    const channel = this.#dial(rootsPem)
    channel.calls++
    try {
      const bytes = await new Promise<Buffer>((resolve, reject) => {
        const same = (b: Buffer): Buffer => b
        const deadline = Date.now() + timeoutMs
        channel.client.makeUnaryRequest(createCertificateMethod, same, same, request, metadata, { deadline }, (error, response) => {
          if (error) reject(this.#error(error, uri))
          else if (response) resolve(response)
          else reject(new MeshError('CERTIFICATE_UNAVAILABLE', 'the CA answered with nothing', { source: 'upstream' }))
        })
      })
      return decodeResponse(bytes)
    } finally {
      channel.calls--
      if (channel.isOld && channel.calls === 0) channel.client.close()
    }
  }

  close(): void {
    this.#isClosed = true
    this.#channel?.client.close()
    this.#channel = undefined
  }

  #dial(roots: string | undefined): Channel {
    if (this.#isClosed) throw new MeshError('CLOSED', 'the client of the CA is closed')
    const known = this.#channel
    if (known && known.roots === roots) return known
    if (known) {
      // Calls on the old connection may finish.
      known.isOld = true
      if (known.calls === 0) known.client.close()
    }
    const { address, serverName } = this.#options
    const client = new Client(address, credentials.createSsl(roots === undefined ? null : Buffer.from(roots)), {
      'grpc.max_receive_message_length': maxResponseBytes,
      'grpc.enable_retries': 0,
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5_000,
      'grpc.keepalive_time_ms': 30_000,
      'grpc.keepalive_timeout_ms': 10_000,
      ...(serverName === undefined ? {} : { 'grpc.ssl_target_name_override': serverName, 'grpc.default_authority': serverName }),
    })
    this.#channel = { client, roots, calls: 0, isOld: false }
    return this.#channel
  }

  #error(error: ServiceError, uri: string): MeshError {
    const facts = { source: 'upstream', detail: { grpc: status[error.code] ?? error.code, address: this.#options.address }, cause: error } as const
    if (refusals.has(error.code)) return new MeshError('CERTIFICATE_REFUSED', `no certificate for ${uri}: ${error.details}`, facts)
    return new MeshError('CERTIFICATE_UNAVAILABLE', `the CA at ${this.#options.address} cannot be asked: ${error.details}`, facts)
  }
}
