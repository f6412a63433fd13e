// Names that more than one of our processes, or the manifests that install them, must agree on when the mesh runs on Kubernetes.
// Each stands here once. Pure data.

/** Where we are installed, unless told otherwise. */
export const systemNamespace = 'sidestep-system'

/** Of the DaemonSet with ztunnel and node agent, its ServiceAccount and its tokens' subject. */
export const ztunnelName = 'sidestep-ztunnel'
/** Of the control plane's Deployment, Service, ServiceAccount and Lease. */
export const controlPlaneName = 'sidestep-controlplane'
/** Audience of the projected tokens that ztunnels and gateways show to the control plane. */
export const tokenAudience = 'sidestep-controlplane'

/** Holds the CA's directory, in our namespace; only the control plane reads it. */
export const caSecret = 'sidestep-ca'
/** Roots and revocations, in our namespace and in each that has a Gateway of ours. */
export const trustConfigMap = 'sidestep-trust'
export const trustKeys = { roots: 'roots.pem', crl: 'crl.pem' } as const

/** Of pods, written by the node agent: whether the pod's traffic is captured, and why not. */
export const capturedCondition = 'sidestep.dev/Captured'
/** Of namespaces, written by the control plane: how many of its pods are captured. */
export const inMeshCondition = 'sidestep.dev/InMesh'
/** Of services, written by the control plane: the waypoint that stands before it, or why none does. */
export const waypointBoundCondition = 'sidestep.dev/WaypointBound'

/** Who owns the fields that we write. */
export const fieldManager = 'sidestep'

/** On each node. */
export const nodePaths = {
  /** Sockets of the agent. */
  run: '/run/sidestep',
  /** The CNI plugin asks here. */
  cniSocket: '/run/sidestep/cni.sock',
  /** What the CNI plugin goes by when nobody answers. Survives a restart of the node. */
  namespaces: '/var/lib/sidestep/cni/namespaces.json',
  state: '/var/lib/sidestep',
} as const

/** In our image, on the PATH: what a container of ours starts. */
export const programs = {
  ztunnel: 'sidestep-ztunnel',
  agent: 'sidestep-agent',
  controlPlane: 'sidestep-controlplane',
  waypoint: 'sidestep-waypoint',
  /** The command line. */
  cli: 'sidestep',
} as const
