// Makes the connection to one endpoint: through its tunnel or in plain TCP, and with TLS of our own on top where the policy asks
// for it. For whom we connect stands in the CONNECT's headers. Keeps nothing.
import { lookup } from 'node:dns/promises'
import { connect, isIP } from 'node:net'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { canonicalIp } from '../../core/address.ts'
import type { SocketAddr } from '../../core/address.ts'
import { MeshError } from '../../core/errors.ts'
import type { Identity } from '../../core/identity.ts'
import type { ConnectHeaders } from '../../hbone/connect-headers.ts'
import { dialTarget } from '../../hbone/dial.ts'
import type { TraceParent } from '../../hbone/traceparent.ts'
import type { Way } from './endpoint-facts.ts'
import { originate } from './origination.ts'
import type { TlsPolicy } from './origination.ts'
import type { UpstreamParts } from './parts.ts'

export interface ConnectPlan {
  readonly way: Way
  /** For whom; undefined for ourselves. */
  readonly source: Identity | undefined
  readonly tls: TlsPolicy | undefined
  /** Of the server, where `tls` names none. */
  readonly host: string
  readonly protocol: 'http1' | 'http2' | 'opaque'
  readonly timeoutMs: number
  /** Of a connection that is one client's alone. */
  readonly client?: SocketAddr | undefined
  readonly traceParent?: TraceParent | undefined
}

/** Rejects with the MeshErrors of HbonePool.openTunnel, dialTarget or originate. */
export async function connectTo(plan: ConnectPlan, parts: UpstreamParts, signal: AbortSignal): Promise<Duplex> {
  const { way } = plan
  const carrier = way.t === 'tunnel'
    ? await openTunnel(plan, way, parts, signal)
    : await dial(way.to, plan.timeoutMs, parts, signal)
  if (!plan.tls) return carrier
  return await originate(carrier, { policy: plan.tls, host: plan.host, protocol: plan.protocol, secret: parts.secret }, signal)
}

type Tunnelled = Way & { readonly t: 'tunnel' }

async function openTunnel(plan: ConnectPlan, way: Tunnelled, parts: UpstreamParts, signal: AbortSignal): Promise<Duplex> {
  const { tunnels, identity, sourceKey } = parts
  if (!tunnels) throw new MeshError('CERTIFICATE_UNAVAILABLE', 'without a control plane there are no tunnels')
  const headers: ConnectHeaders = {
    ...(plan.source && { sourceIdentity: plan.source }),
    ...(plan.client && { forwarded: { client: plan.client } }),
    ...(plan.traceParent && { traceParent: plan.traceParent }),
  }
  const target = { source: identity, identities: way.identities, address: way.to, sourceKey }
  const { stream } = await tunnels.openTunnel({ target, authority: way.authority, headers, signal })
  return stream
}

function dial(to: SocketAddr, timeoutMs: number, parts: UpstreamParts, signal: AbortSignal): Promise<Socket> {
  const { dial: call = dialHere, resolve = resolveName, clock, store, self } = parts
  const byName = async ({ address }: { readonly address: SocketAddr }, given: AbortSignal): Promise<Socket> => {
    if (isIP(address.ip) !== 0) return await call(address, given)
    // A name that somebody else owns must not lead to this pod itself, to what answers on link-local addresses, or in plain
    // text and without a caller's identity into the mesh.
    const network = self()?.network ?? ''
    const isMeshed = (ip: string): boolean => (store.workloadByIp(network, ip)?.tunnelProtocol ?? 'none') !== 'none'
    const outside = (await resolve(address.ip)).filter((ip) => !isInside(ip) && !isMeshed(ip)).slice(0, mostAddresses)
    const nowhere = `${address.ip} has no address outside this host and the mesh`
    let last: unknown = new MeshError('CONNECT_UNREACHABLE', nowhere, { source: 'upstream' })
    for (const ip of outside) {
      try {
        return await call({ ip, port: address.port }, given)
      } catch (error) {
        last = error
        if (given.aborted) break
      }
    }
    throw last
  }
  return dialTarget({ address: to }, { dial: byName, clock, timeoutMs, signal })
}

/** Of one name, one after the other. */
const mostAddresses = 4

async function resolveName(host: string): Promise<readonly string[]> {
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address)
  } catch (cause) {
    throw new MeshError('CONNECT_UNREACHABLE', `the name ${host} is not known`, { source: 'upstream', cause })
  }
}

/** From this process's network namespace. */
export function dialHere({ ip, port }: SocketAddr, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: ip, port, allowHalfOpen: true, noDelay: true })
    const finish = (error?: Error): void => {
      signal.removeEventListener('abort', onAbort)
      socket.off('error', finish)
      socket.off('connect', onConnect)
      if (!error) {
        resolve(socket)
        return
      }
      socket.on('error', () => {
        // Told already.
      })
      socket.destroy()
      reject(error)
    }
    const onConnect = (): void => finish()
    const onAbort = (): void => finish(new MeshError('CLOSED', 'the dial was given up'))
    socket.once('error', finish)
    socket.once('connect', onConnect)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()
  })
}

function isInside(address: string): boolean {
  const ip = canonicalIp(address) ?? address
  return /^(?:127|0|169\.254)\./.test(ip) || ip === '::1' || ip === '::' || /^fe[89ab]/.test(ip)
}
