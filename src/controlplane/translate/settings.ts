// What a mesh decides once for all translation.
import { defaultTrustDomain } from '../../model/workload.ts'

export interface TranslateSettings {
  readonly clusterId: string
  /** '' in a mesh of one network. */
  readonly network: string
  readonly trustDomain: string
  /** Trust domains whose identities mean the same as ours, for policies that name them. */
  readonly trustDomainAliases: readonly string[]
  readonly clusterDomain: string
  /** Policies in one of these are for the whole mesh. Istio's is among them, so that YAML moves over unchanged. */
  readonly rootNamespaces: readonly string[]
  /**
   * Whether a Service of type ExternalName is sent, as a service whose only endpoint is a host name. Istio's ztunnel would
   * answer its name with nothing, so turn it off where the cluster's own DNS answers such names to Istio's ztunnels.
   */
  readonly sendsExternalNames: boolean
  /** Whether Istio's labels that choose waypoints are read, where ours are not there: their owners want requests looked at. */
  readonly istioLabels: boolean
  /** Whether somebody makes pods of Gateways as the ConfigMaps say that they and their classes name. */
  readonly readsParameters: boolean
}

export const defaultSettings: TranslateSettings = {
  clusterId: 'Kubernetes',
  network: '',
  trustDomain: defaultTrustDomain,
  trustDomainAliases: [],
  clusterDomain: 'cluster.local',
  rootNamespaces: ['sidestep-system', 'istio-system'],
  sendsExternalNames: true,
  istioLabels: true,
  readsParameters: false,
}

/** What there is to say about one object. An object with problems is not in force, wholly or where the problem says. */
export interface Remarks {
  readonly problems: readonly string[]
  /** Worth knowing, nothing to correct: parts that somebody else enforces, or that are read in another way than one may think. */
  readonly notes: readonly string[]
}

export const noRemarks: Remarks = Object.freeze({ problems: Object.freeze([]), notes: Object.freeze([]) })
