// What an installation may leave on a cluster: objects, conditions, files of nodes, hooks in their kernel. Taken before and compared after.
// It only reads.
import type { Cluster } from './cluster.ts'
import type { KubeObject, Kubectl } from './kubectl.ts'

/** Come and go by themselves, with other names each time. */
const restless = new Set(['events', 'events.events.k8s.io', 'leases.coordination.k8s.io', 'endpoints', 'endpointslices.discovery.k8s.io', 'componentstatuses', 'ipaddresses.networking.k8s.io'])
/** Where on a node anything of ours may be. */
const nodePaths = ['/etc/cni', '/opt/cni', '/var/lib/sidestep', '/run/sidestep', '/sys/fs/bpf/sidestep']

export interface Traces {
  /** `kind namespace/name`, of everything that can be listed. */
  readonly objects: ReadonlySet<string>
  /** For each node, lines `mode hash path`. */
  readonly files: ReadonlyMap<string, readonly string[]>
}

export async function traces(kube: Kubectl, cluster: Cluster | undefined): Promise<Traces> {
  const files = new Map<string, readonly string[]>()
  for (const node of cluster?.nodes ?? []) {
    const script = 'for each; do [ ! -e "$each" ] || find "$each" -type f -exec sha256sum {} + -o -print; done'
    files.set(node.name, (await node.machine.mustRun(['sh', '-c', script, 'sh', ...nodePaths])).split('\n').filter((line) => line !== '' && !line.includes('/opt/cni/bin/')).toSorted()
      .concat((await node.machine.mustRun(['ls', '/opt/cni/bin'])).split('\n')))
  }
  return { objects: await objectNames(kube), files }
}

async function objectNames(kube: Kubectl): Promise<ReadonlySet<string>> {
  const kinds = (await kube.kubectl(['api-resources', '--verbs=list', '-o', 'name'])).split('\n').filter((kind) => kind !== '' && !restless.has(kind))
  const lists = await kube.kubectl(['get', kinds.join(','), '-A', '-o', 'jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\\n"}{end}'])
  return new Set(lists.split('\n').filter((line) => line !== ''))
}

/** What is there now and was not before, one line each; without what is in `ignored`. */
export function newTraces(before: Traces, after: Traces, ignored: RegExp = /^$/): string[] {
  const objects = [...after.objects].filter((name) => !before.objects.has(name))
  const files = [...after.files].flatMap(([node, lines]) => {
    const known = new Set(before.files.get(node))
    const gone = [...known].filter((line) => !lines.includes(line)).map((line) => `${node} lacks ${line}`)
    return [...lines.filter((line) => !known.has(line)).map((line) => `${node} has ${line}`), ...gone]
  })
  return [...objects, ...files].filter((line) => !ignored.test(line)).toSorted()
}

/** Ids of the links and programs that are pinned below /sys/fs/bpf/sidestep of a node: `link 7`. */
export async function pinnedHooks(cluster: Cluster): Promise<string[]> {
  const script = `find /sys/fs/bpf/sidestep -type f 2>/dev/null | while read -r pin; do
    for kind in link prog; do bpftool -j "$kind" show pinned "$pin" 2>/dev/null | grep -oE '"id":[0-9]+' | head -n 1 | sed "s/.*:/$kind /"; done
  done`
  const found = await Promise.all(cluster.nodes.map((node) => node.machine.mustRun(['sh', '-c', script])))
  return [...new Set(found.join('\n').split('\n').filter((line) => line !== ''))]
}

/** Of these, those that the kernel still has. */
export async function hooksLeft(cluster: Cluster, hooks: readonly string[]): Promise<string[]> {
  const [node] = cluster.nodes
  const states = await Promise.all(hooks.map(async (hook) => {
    const [kind = '', id = ''] = hook.split(' ')
    return (await node?.machine.run(['bpftool', kind, 'show', 'id', id]))?.code === 0 ? [hook] : []
  }))
  return states.flat()
}

/** `kind namespace/name: condition` of every condition of ours on pods, namespaces, services and nodes. */
export async function ourConditions(kube: Kubectl): Promise<string[]> {
  const objects = await kube.list<KubeObject>('pods,namespaces,services,nodes', '-A')
  return objects.flatMap(({ kind, metadata, status }) => (status?.conditions ?? []).filter(({ type }) => type.includes('sidestep'))
    .map(({ type }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}: ${type}`))
}
