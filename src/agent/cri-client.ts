// Asks a container runtime which sandboxes there are and where their network namespaces are (Container Runtime Interface, gRPC on a
// unix socket). Every question is bounded in time, every answer in size. What a runtime says is a hint: it is verified by whoever uses
// it.
import { existsSync } from 'node:fs'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import type { DescMessage, MessageShape } from '@bufbuild/protobuf'
import { Client, credentials } from '@grpc/grpc-js'
import { z } from 'zod'
import { canonicalIp } from '../core/address.ts'
import { MeshError } from '../core/errors.ts'
import {
  ListPodSandboxRequestSchema, ListPodSandboxResponseSchema, NamespaceMode, PodSandboxState, PodSandboxStatusRequestSchema, PodSandboxStatusResponseSchema,
} from '../proto/cri_pb.ts'
import type { PodSandboxMetadata, PodSandboxStatusResponse } from '../proto/cri_pb.ts'

/** A pod's sandbox that is ready. A pod may have had others before. */
export interface Sandbox {
  readonly id: string
  readonly uid: string
  readonly namespace: string
  readonly name: string
  readonly createdAt: bigint
}

/** Where a sandbox's namespace may be found, best first, and what addresses it was given. */
export interface SandboxNetwork {
  readonly sandbox: Sandbox
  readonly isHostNetwork: boolean
  readonly paths: readonly string[]
  readonly ips: readonly string[]
}

export interface SandboxSource {
  list(): Promise<readonly Sandbox[]>
  network(id: string): Promise<SandboxNetwork | undefined>
}

/** Where runtimes listen, in the order in which they are tried. */
export const usualCriSockets = ['/run/containerd/containerd.sock', '/run/crio/crio.sock', '/run/k3s/containerd/containerd.sock', '/var/snap/microk8s/common/run/containerd.sock'] as const

const timeoutMs = 5_000
const largestAnswerBytes = 16 << 20
const largestInfoBytes = 4 << 20
const service = '/runtime.v1.RuntimeService'

/** containerd's and CRI-O's verbose answers have these in common. */
const infoSchema = z.object({
  pid: z.int().min(1).max(2 ** 31).optional().catch(undefined),
  runtimeSpec: z.object({
    linux: z.object({
      namespaces: z.array(z.object({ type: z.string(), path: z.string().max(4096).optional() }).catch({ type: '' })).max(64).catch([]).default([]),
    }).optional().catch(undefined),
  }).optional().catch(undefined),
})

export class CriClient implements SandboxSource {
  readonly path: string
  readonly #client: Client

  constructor(path: string) {
    this.path = path
    this.#client = new Client(`unix:${path}`, credentials.createInsecure(), {
      'grpc.max_receive_message_length': largestAnswerBytes, 'grpc.default_authority': 'localhost',
      // The runtime may be restarted at any time, and is asked again soon.
      'grpc.initial_reconnect_backoff_ms': 200, 'grpc.max_reconnect_backoff_ms': 5_000,
    })
  }

  /** `named`, or the first of the usual ones that is there; undefined for none. */
  static find(named: string): CriClient | undefined {
    if (named === 'none') return undefined
    const path = named === '' ? usualCriSockets.find((each) => existsSync(each)) : named.replace(/^unix:(\/\/)?(?=\/)/, '')
    return path === undefined ? undefined : new CriClient(path)
  }

  /** Rejects with AGENT_UNAVAILABLE where the runtime does not answer. */
  async list(): Promise<readonly Sandbox[]> {
    const request = create(ListPodSandboxRequestSchema, { filter: { state: { state: PodSandboxState.SANDBOX_READY } } })
    const { items } = await this.#ask('ListPodSandbox', ListPodSandboxRequestSchema, request, ListPodSandboxResponseSchema)
    return items.flatMap(({ id, metadata, createdAt, state }) => (metadata && state === PodSandboxState.SANDBOX_READY ? [sandboxOf(id, metadata, createdAt)] : []))
  }

  /** Undefined for a sandbox that is not ready any more. */
  async network(id: string): Promise<SandboxNetwork | undefined> {
    const request = create(PodSandboxStatusRequestSchema, { podSandboxId: id, verbose: true })
    return readSandboxStatus(await this.#ask('PodSandboxStatus', PodSandboxStatusRequestSchema, request, PodSandboxStatusResponseSchema))
  }

  #ask<Req extends DescMessage, Res extends DescMessage>(method: string, asked: Req, request: MessageShape<Req>, answered: Res): Promise<MessageShape<Res>> {
    return new Promise((resolve, reject) => {
      const same = (bytes: Buffer): Buffer => bytes
      this.#client.makeUnaryRequest(`${service}/${method}`, same, same, Buffer.from(toBinary(asked, request)), { deadline: Date.now() + timeoutMs }, (error, bytes) => {
        if (error || !bytes) return reject(new MeshError('AGENT_UNAVAILABLE', `the container runtime on ${this.path} does not answer: ${error?.message ?? 'nothing'}`, { source: 'upstream', cause: error }))
        try {
          resolve(fromBinary(answered, bytes))
        } catch (cause) {
          reject(new MeshError('BAD_MESSAGE', `the container runtime on ${this.path} sent what is no message`, { source: 'upstream', cause }))
        }
      })
    })
  }

  close(): void {
    this.#client.close()
  }
}

function sandboxOf(id: string, { uid, namespace, name }: PodSandboxMetadata, createdAt: bigint): Sandbox {
  return { id, uid, namespace, name, createdAt }
}

/** Undefined where it does not say what is needed, or the sandbox is not ready. */
export function readSandboxStatus({ status, info }: PodSandboxStatusResponse): SandboxNetwork | undefined {
  if (!status?.metadata || status.state !== PodSandboxState.SANDBOX_READY) return undefined
  const { pid, netns } = readInfo(info['info'] ?? '')
  const ips = [status.network?.ip ?? '', ...(status.network?.additionalIps ?? []).map(({ ip }) => ip)].slice(0, 16).map(canonicalIp).filter((ip) => ip !== undefined)
  return {
    sandbox: sandboxOf(status.id, status.metadata, status.createdAt),
    isHostNetwork: status.linux?.namespaces?.options?.network === NamespaceMode.NODE,
    paths: [...(netns === undefined ? [] : [netns]), ...(pid === undefined ? [] : [`/proc/${pid}/ns/net`])],
    ips,
  }
}

function readInfo(text: string): { readonly pid?: number | undefined; readonly netns?: string | undefined } {
  if (text.length === 0 || text.length > largestInfoBytes) return {}
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    // Another runtime's own words: there are other ways to find the namespace.
    return {}
  }
  const parsed = infoSchema.safeParse(value)
  if (!parsed.success) return {}
  const path = parsed.data.runtimeSpec?.linux?.namespaces.find(({ type }) => type === 'network')?.path
  return { pid: parsed.data.pid, netns: path?.startsWith('/') === true && !path.split('/').includes('..') ? path : undefined }
}
