// On which ports the kubelet itself connects to a pod: those of its probes and of its life cycle's HTTP hooks. Pure; reads a pod's
// spec as the API gives it, and passes over what is not as it should be.
import { z } from 'zod'

/** As many as an enrolment may have. */
const mostPorts = 64

const portSchema = z.union([z.int().min(1).max(65_535), z.string().max(63)]).catch(0)
const target = z.object({ port: portSchema, host: z.string().optional().catch(undefined) }).optional().catch(undefined)
const handler = z.object({ httpGet: target, tcpSocket: target, grpc: target }).optional().catch(undefined)
const containerSchema = z.object({
  ports: z.array(z.object({ name: z.string().optional(), containerPort: z.int() }).catch({ containerPort: 0 })).catch([]).default([]),
  startupProbe: handler, readinessProbe: handler, livenessProbe: handler,
  lifecycle: z.object({ postStart: handler, preStop: handler }).optional().catch(undefined),
})
const specSchema = z.object({
  containers: z.array(z.unknown()).max(10_000).catch([]).default([]), initContainers: z.array(z.unknown()).max(10_000).catch([]).default([]),
}).catch({ containers: [], initContainers: [] })

/** Ascending, each once. */
export function probePorts(spec: unknown): number[] {
  const { containers, initContainers } = specSchema.parse(spec)
  const found = new Set<number>()
  for (const each of [...containers, ...initContainers]) {
    const parsed = containerSchema.safeParse(each)
    if (!parsed.success) continue
    const { ports, startupProbe, readinessProbe, livenessProbe, lifecycle } = parsed.data
    for (const probe of [startupProbe, readinessProbe, livenessProbe, lifecycle?.postStart, lifecycle?.preStop]) {
      for (const to of [probe?.httpGet, probe?.tcpSocket, probe?.grpc]) {
        // A host of its own means another address than the pod's, such as the node's.
        if (!to || (to.host ?? '') !== '') continue
        const port = typeof to.port === 'string' ? numberOf(to.port, ports) : to.port
        if (port > 0 && port <= 65_535) found.add(port)
      }
    }
  }
  return [...found].sort((a, b) => a - b).slice(0, mostPorts)
}

/** A name is one of the same container's ports, as for the kubelet; digits are a number. */
function numberOf(name: string, ports: readonly { readonly name?: string | undefined; readonly containerPort: number }[]): number {
  return ports.find((port) => port.name === name)?.containerPort ?? (/^\d{1,5}$/.test(name) ? Number(name) : 0)
}
