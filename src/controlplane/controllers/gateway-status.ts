// What is said of Gateways and their classes in the conditions of the Gateway API: of a Gateway whether it makes sense, whether its
// pods and address are there, and of each listener what became of it. Pure: from what translation and the controller found.
import type { ListenerStatus } from '../../model/control-plane-status.ts'
import type { GatewayRole } from '../../model/gateway-labels.ts'
import { gatewayGroup } from '../../model/manifest-gateway.ts'
import { statusChange, withConditions, type WantedCondition } from './conditions.ts'
import type { ObjectFacts } from '../status.ts'
import { isRecord } from './strategic-merge.ts'

type Json = Readonly<Record<string, unknown>>

export interface GatewayAddressStatus {
  readonly type: 'IPAddress' | 'Hostname'
  readonly value: string
}

/** What became of a Gateway's objects. */
export type GatewayState =
  /** Not made yet. */
  | { readonly t: 'pending' }
  /** What it asks for cannot be made as it is written; what was made before stays. */
  | { readonly t: 'refused'; readonly reason: 'Invalid' | 'InvalidParameters'; readonly message: string }
  /** The API server, or who else has objects of these names, keeps it from being made. */
  | { readonly t: 'failed'; readonly reason: 'ObjectConflict' | 'NotMade' | 'NoImage'; readonly message: string }
  | {
    readonly t: 'made'
    /** Pods that take requests. */
    readonly ready: number
    readonly wanted: number
    readonly addresses: readonly GatewayAddressStatus[]
    /** It has an address of the kind that it is to have. */
    readonly hasAddress: boolean
    /** Of its pods: why they are not ready, where that is known. */
    readonly message: string
  }

export interface GatewayFacts {
  readonly generation: number
  readonly facts: Pick<ObjectFacts, 'problems' | 'isUnreadable' | 'listeners'>
  readonly state: GatewayState
  /** Some listener lets clients in whatever certificate they show. */
  readonly isOpenToAnyClient?: boolean
  /** As it is now. */
  readonly status: Json
  /** ISO 8601. */
  readonly now: string
}

/** The fields of the status that are to be different; undefined if it is right. */
export function gatewayStatusChange({ generation, facts, state, isOpenToAnyClient = false, status, now }: GatewayFacts): Json | undefined {
  const accepted = acceptedOf(facts, state)
  const programmed = programmedOf(accepted, state)
  const before = new Map((Array.isArray(status['listeners']) ? status['listeners'] : []).flatMap((each) => (isRecord(each) ? [[each['name'], each] as const] : [])))
  const listeners = facts.listeners.map((listener) => ({
    name: listener.name,
    supportedKinds: listener.supportedKinds.map((kind) => ({ group: gatewayGroup, kind })),
    attachedRoutes: listener.attachedRoutes,
    conditions: withConditions(before.get(listener.name)?.['conditions'], listenerConditions(listener, accepted, programmed), { now, generation }),
  }))
  const addresses = state.t === 'made' ? state.addresses.slice(0, maxAddresses) : undefined
  return statusChange(status, {
    conditions: withConditions(status['conditions'], [accepted, programmed, ...(isOpenToAnyClient ? [insecureFrontend] : [])], {
      now, generation, gone: isOpenToAnyClient ? [] : [insecureFrontend.type],
    }),
    // Of one that could not be read, what was there before is in force.
    ...(facts.isUnreadable && listeners.length === 0 ? {} : { listeners }),
    ...(addresses ? { addresses } : {}),
  })
}

const maxAddresses = 16

/** The Gateway API wants it said of itself. */
const insecureFrontend: WantedCondition = {
  type: 'InsecureFrontendValidationMode', status: true, reason: 'ConfigurationChanged',
  message: 'with the mode AllowInsecureFallback, clients are let in whatever certificate they show, or none',
}

function acceptedOf({ problems, isUnreadable, listeners }: GatewayFacts['facts'], state: GatewayState): WantedCondition {
  const is = (status: boolean, reason: string, message: string): WantedCondition => ({ type: 'Accepted', status, reason, message })
  if (isUnreadable) return is(false, 'Invalid', problems.join('; '))
  if (state.t === 'refused') return is(false, state.reason, state.message)
  const bad = listeners.filter(({ accepted }) => !accepted.status)
  const message = bad.map(({ name, accepted }) => `listener ${name}: ${accepted.message}`).join('; ')
  if (bad.length > 0) return is(bad.length < listeners.length, 'ListenersNotValid', message)
  return is(true, 'Accepted', problems.join('; '))
}

function programmedOf(accepted: WantedCondition, state: GatewayState): WantedCondition {
  const no = (reason: string, message: string): WantedCondition => ({ type: 'Programmed', status: false, reason, message })
  switch (state.t) {
    case 'pending': return no('Pending', 'its objects are being made')
    case 'refused': return no('Invalid', state.message)
    case 'failed': return no(state.reason, state.message)
    case 'made': {
      if (!accepted.status) return no('Invalid', accepted.message)
      if (!state.hasAddress) return no('AddressNotAssigned', 'its Service has no address yet: is there anything in this cluster that gives addresses to Services of the type LoadBalancer?')
      if (state.wanted === 0) return no('NoResources', 'no pods are wanted')
      if (state.ready === 0) return no('Pending', state.message === '' ? 'none of its pods is ready yet' : `none of its pods is ready: ${state.message}`)
      return { type: 'Programmed', status: true, reason: 'Programmed', message: '' }
    }
    default: return state satisfies never
  }
}

/** Of these the listener serves nothing, or nobody can speak to it. */
const gravely: ReadonlySet<string> = new Set(['InvalidCertificateRef', 'RefNotPermitted', 'InvalidCACertificateRef', 'InvalidCACertificateKind'])

function listenerConditions({ accepted, conflicted, resolvedRefs }: ListenerStatus, ofGateway: WantedCondition, programmed: WantedCondition): readonly WantedCondition[] {
  const isInvalid = !ofGateway.status || !accepted.status || (!resolvedRefs.status && gravely.has(resolvedRefs.reason))
  const own: WantedCondition = isInvalid
    ? { type: 'Programmed', status: false, reason: 'Invalid', message: [accepted, resolvedRefs].filter(({ status }) => !status).map(({ message }) => message).join('; ') || ofGateway.message }
    : programmed.status ? { ...programmed } : { type: 'Programmed', status: false, reason: 'Pending', message: programmed.message }
  return [{ type: 'Accepted', ...accepted }, { type: 'Conflicted', ...conflicted }, { type: 'ResolvedRefs', ...resolvedRefs }, own]
}

/** What Gateways of a class can do beyond the core of the Gateway API, in its own words; sorted. */
export function classStatusChange(
  { generation, role, features, status, now }: { readonly generation: number; readonly role: GatewayRole; readonly features: Readonly<Record<GatewayRole, readonly string[]>>; readonly status: Json; readonly now: string },
): Json | undefined {
  const accepted: WantedCondition = { type: 'Accepted', status: true, reason: 'Accepted', message: '' }
  return statusChange(status, {
    conditions: withConditions(status['conditions'], [accepted], { now, generation }),
    supportedFeatures: [...new Set(features[role])].sort().map((name) => ({ name })),
  })
}
