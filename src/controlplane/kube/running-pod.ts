// A pod of the Kubernetes API as a running pod: on a node, not ended. Takes what is used and keeps nothing of the rest. Never
// throws, whatever it is given: what is no pod, or cannot be one that runs, is undefined.
import { canonicalIp, isIpv6Address } from '../../core/address.ts'
import type { KubeObject } from '../../kube/api.ts'
import { capturedCondition } from '../../model/kubernetes-names.ts'
import type { RunningPod } from '../../model/running-pod.ts'
import { isRecord } from './slim.ts'

type Json = Readonly<Record<string, unknown>>

/** Kubernetes allows fewer; what is more would be somebody's flood. */
const maxPorts = 1000
/** Of why a pod is not captured. */
const maxReason = 300
const templateHashLabel = 'pod-template-hash'
/** Names of a CronJob's Jobs end with the minute they are for. */
const scheduledJob = /^(.+)-\d{8,11}$/

export function runningPod(object: KubeObject): RunningPod | undefined {
  const spec = recordOf(object.spec)
  const status = recordOf(object.status)
  const { name, namespace = '', uid, deletionTimestamp } = object.metadata
  const node = textOf(spec['nodeName'])
  const phase = textOf(status['phase'])
  // An address of a pod that ended belongs to another pod by now.
  if (!isName(name) || !isName(namespace) || !isName(uid) || !isName(node) || phase === 'Succeeded' || phase === 'Failed') return undefined
  const labels = textsOf(object.metadata.labels)
  const conditions = listOf(status['conditions'])
  const isTrue = (type: string): boolean => conditions.some((each) => each['type'] === type && each['status'] === 'True')
  const serviceAccount = textOf(spec['serviceAccountName'])
  const captured = conditions.find((each) => each['type'] === capturedCondition)
  const notCaptured = captured?.['status'] === 'False' ? [textOf(captured['reason']), textOf(captured['message'])].filter((each) => each !== '').join(': ').slice(0, maxReason) : ''
  const hostname = textOf(spec['hostname'])
  const subdomain = textOf(spec['subdomain'])
  const owner = ownerOf(object, labels)
  return {
    uid, namespace, name, node,
    ips: ipsOf(status),
    // One that is about to end takes nothing new; what it has goes on.
    ready: isTrue('Ready') && deletionTimestamp === undefined,
    labels,
    serviceAccount: isName(serviceAccount) ? serviceAccount : 'default',
    isCaptured: isTrue(capturedCondition),
    isHostNetwork: spec['hostNetwork'] === true,
    ports: portsOf(spec),
    ...(notCaptured === '' ? {} : { notCaptured }),
    ...(isName(hostname) ? { hostname } : {}),
    ...(isName(subdomain) ? { subdomain } : {}),
    ...(owner ? { owner } : {}),
  }
}

function ipsOf(status: Json): readonly string[] {
  const given = [...listOf(status['podIPs']).map((each) => each['ip']), status['podIP']]
  const ips = given.flatMap((each) => canonicalIp(textOf(each)) ?? [])
  const first = (isV6: boolean): string[] => ips.filter((ip) => isIpv6Address(ip) === isV6).slice(0, 1)
  const both = [...first(false), ...first(true)]
  // The first is the one by which Kubernetes itself calls it.
  return both[1] !== undefined && both[1] === ips[0] ? both.toReversed() : both
}

/** Those with a name, which services may mean by it. */
function portsOf(spec: Json): RunningPod['ports'] {
  // A sidecar in Kubernetes' sense is an init container that goes on.
  const containers = [...listOf(spec['containers']), ...listOf(spec['initContainers']).filter((each) => each['restartPolicy'] === 'Always')]
  return containers.flatMap((container) => listOf(container['ports'])).slice(0, maxPorts).flatMap((port) => {
    const [name, number, protocol] = [textOf(port['name']), port['containerPort'], port['protocol'] ?? 'TCP']
    const isPort = typeof number === 'number' && Number.isInteger(number) && number >= 1 && number <= 65_535
    return name !== '' && isPort && (protocol === 'TCP' || protocol === 'UDP') ? [{ name, port: number, protocol }] : []
  })
}

/** As Istio names it: a ReplicaSet's Deployment, a Job's CronJob, else the controller itself. */
function ownerOf(object: KubeObject, labels: Readonly<Record<string, string>>): RunningPod['owner'] {
  const controller = listOf(object.metadata.ownerReferences).find((each) => each['controller'] === true)
  const [kind, name] = [textOf(controller?.['kind']), textOf(controller?.['name'])]
  if (!isName(name)) return undefined
  const hash = Object.hasOwn(labels, templateHashLabel) ? labels[templateHashLabel] ?? '' : ''
  switch (kind) {
    case 'ReplicaSet': {
      const suffix = `-${hash}`
      return hash !== '' && name.endsWith(suffix) && name.length > suffix.length
        ? { type: 'deployment', name: name.slice(0, -suffix.length) }
        : { type: 'pod', name }
    }
    case 'Job': {
      const cronJob = scheduledJob.exec(name)?.[1]
      return cronJob === undefined ? { type: 'job', name } : { type: 'cronjob', name: cronJob }
    }
    // A static pod is owned by its node, of which it is none of many.
    case 'Node': return undefined
    default: return { type: 'pod', name }
  }
}

function isName(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= 253 && !/[/\s]/.test(value)
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function recordOf(value: unknown): Json {
  return isRecord(value) ? value : {}
}

function listOf(value: unknown): readonly Json[] {
  return Array.isArray(value) ? value.filter(isRecord) : []
}

function textsOf(value: unknown): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(recordOf(value)).filter((each): each is [string, string] => typeof each[1] === 'string'))
}
