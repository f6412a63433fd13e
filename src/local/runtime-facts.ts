// The pods and service addresses of a local mesh as the control plane wants them. It only looks; nothing is changed here.
import type { ServiceManifest } from '../model/manifest.ts'
import type { RunningPod, RuntimeFacts } from '../model/running-pod.ts'
import type { Pod } from './pod.ts'
import type { ServiceAddresses } from './services.ts'

/** Pods that have ended are left out; one whose containers wait for its capture is there, not ready. */
export function runtimeFacts(pods: ReadonlyMap<string, Pod>, services: ReadonlyMap<string, ServiceManifest>, addresses: ServiceAddresses): RuntimeFacts {
  const running = [...pods].filter(([, pod]) => pod.state.t !== 'ended' && pod.state.t !== 'failed' && !pod.isFinished && !pod.isLost)
  return {
    pods: new Map(running.map(([id, pod]) => [id, runningPod(pod)])),
    serviceIps: new Map([...services.keys()].map((id) => [id, addresses.of(id)] as const).filter(([, ips]) => ips.length > 0)),
  }
}

function runningPod(pod: Pod): RunningPod {
  const { options, facts } = pod
  const deployment = options.owner?.slice(options.owner.indexOf('/') + 1)
  return {
    uid: options.uid,
    namespace: options.namespace,
    name: options.name,
    node: facts.node,
    ips: facts.ips,
    ready: pod.isReady && !pod.isTerminating,
    labels: pod.labels,
    serviceAccount: facts.serviceAccount,
    isCaptured: options.node.agent?.stateOf(options.uid).t === 'captured',
    isHostNetwork: false,
    ports: options.spec.containers.flatMap(({ ports }) => ports.flatMap(({ name, containerPort, protocol }) =>
      (name === undefined ? [] : [{ name, port: containerPort, protocol }]))),
    ...(options.spec.hostname === undefined ? {} : { hostname: options.spec.hostname }),
    ...(options.spec.subdomain === undefined ? {} : { subdomain: options.spec.subdomain }),
    ...(deployment === undefined ? {} : { owner: { type: 'deployment', name: deployment } }),
  }
}
