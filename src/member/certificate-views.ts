// Certificates as admin APIs show them. Never shows a key.
import { formatIdentity } from '../core/identity.ts'
import type { Identity } from '../core/identity.ts'
import { isoTime } from '../model/ztunnel-state.ts'
import type { ZtunnelState } from '../model/ztunnel-state.ts'
import type { CertificateView } from '../model/ztunnel-views.ts'
import type { CertificateState } from '../pki/certificates.ts'

/** As CertificateManager.states() has them. */
export interface CertificateFacts {
  readonly identity: Identity
  readonly state: CertificateState
}

export function certificateView({ identity, state }: CertificateFacts): CertificateView {
  const { current } = state
  return {
    identity: formatIdentity(identity), state: state.t,
    serial: current?.serial ?? '', notBefore: current ? isoTime(current.notBeforeMs) : '', notAfter: current ? isoTime(current.notAfterMs) : '',
    renewAt: state.t === 'ready' ? isoTime(state.renewAtMs) : state.t === 'failed' ? isoTime(state.retryAtMs) : '',
    roots: current?.rootsPem.length ?? 0, error: state.t === 'failed' ? state.because : '',
  }
}

/** As Istio's config dump has them. PEM is public; the key stays where it is. */
export function certificateDump({ identity, state }: CertificateFacts): object {
  const { current } = state
  return { identity: formatIdentity(identity), state: state.t, certChain: current?.chainPem ?? '', rootCerts: current?.rootsPem ?? [] }
}

/** For a proxy's state in short. */
export function certificateSummary(certificates: readonly CertificateFacts[]): ZtunnelState['certificates'] {
  const expiries = certificates.flatMap(({ state }) => state.current?.notAfterMs ?? [])
  const count = (t: string): number => certificates.filter(({ state }) => state.t === t).length
  return {
    total: certificates.length, ready: count('ready'), failed: count('failed'),
    soonestExpiry: expiries.length === 0 ? '' : isoTime(expiries.reduce((soonest, each) => Math.min(soonest, each))),
  }
}
