// What a local mesh is started with. Shapes only.
import type { SocketAddr } from '../core/address.ts'
import type { Logger } from '../core/log.ts'
import type { PublishOption } from '../model/publish.ts'
import type { RuntimeFacts } from '../model/running-pod.ts'

export interface LocalMeshOptions {
  /** At most 32 lower-case letters, digits and dashes; one mesh of a name at a time. */
  readonly name: string
  /** A directory of YAML (or one file), watched for changes. */
  readonly directory?: string
  /** YAML applied at the start. */
  readonly manifests?: string
  /** Number of virtual nodes, 1 to 64; 2 unless told. */
  readonly nodes?: number
  /** Whether ztunnels run; bare pods otherwise. True unless told. */
  readonly mesh?: boolean
  /** Instead of our own: a program that speaks model/enrolment.ts on SIDESTEP_AGENT_SOCKET. */
  readonly ztunnelCommand?: readonly string[]
  /** Further variables of each ztunnel; they win over ours. */
  readonly ztunnelEnvironment?: Readonly<Record<string, string>>
  /** Instead of our own: what runs in the pods of Gateways. */
  readonly gatewayCommand?: readonly string[]
  /** Ports of this machine that lead to ingresses, beside those that Gateways name themselves. */
  readonly publish?: readonly PublishOption[]
  /** Whether a control plane runs beside the ztunnels; without it they pass everything through. True unless told. */
  readonly controlPlane?: boolean
  /** Further variables of the control plane (src/controlplane/config.ts); they win over ours. */
  readonly controlPlaneEnvironment?: Readonly<Record<string, string>>
  /** Whom pods' questions about names outside go to; this machine's name servers unless told. */
  readonly nameServers?: readonly SocketAddr[]
  /** PATH of containers and ztunnels. */
  readonly hostPath?: string
  readonly logger: Logger
  /** Called with what runs, after everything that may have changed it. */
  readonly onFacts?: (facts: RuntimeFacts) => void
}
