// Pods and Deployments as far as a local mesh reads them. Fields that make no difference on one machine (image, resources,
// volumes) are accepted and dropped; fields whose absence would change what runs (init containers, Secrets in the
// environment) are refused with a reason.
import { z } from 'zod'
import {
  absentList, argument, ip, metadata, objectName, portName, portNumber, portReference, protocol, seconds, shortName, stringMap,
} from './manifest-fields.ts'

const fieldPaths = [
  'metadata.name', 'metadata.namespace', 'metadata.uid', 'spec.nodeName', 'spec.serviceAccountName',
  'status.podIP', 'status.podIPs', 'status.hostIP',
] as const
export type FieldPath = (typeof fieldPaths)[number]

const envSchema = z.object({
  name: z.string().min(1).max(1024).refine((text) => !/[=\0]/.test(text), 'must not contain = or NUL'),
  value: argument.optional(),
  valueFrom: z.strictObject({ fieldRef: z.object({ fieldPath: z.enum(fieldPaths) }) }).optional(),
})

const execSchema = z.object({ command: z.array(argument).min(1).max(1000) })

const probeSchema = z
  .object({
    exec: execSchema.optional(),
    httpGet: z
      .object({
        path: z.string().max(4096).regex(/^[\x21-\x7e]*$/, 'must be printable ASCII without spaces').default('/'),
        port: portReference,
        host: ip.optional(),
        scheme: z.enum(['HTTP', 'HTTPS']).default('HTTP'),
        httpHeaders: z
          .array(z.object({
            name: z.string().max(256).regex(/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/, 'must be a header name'),
            value: z.string().max(8192).regex(/^[\t\x20-\x7e]*$/, 'must be printable ASCII'),
          }))
          .max(100)
          .default([]),
      })
      .optional(),
    tcpSocket: z.object({ port: portReference, host: ip.optional() }).optional(),
    initialDelaySeconds: seconds.min(0).default(0),
    periodSeconds: seconds.min(1).default(10),
    timeoutSeconds: seconds.min(1).default(1),
    successThreshold: z.int().min(1).max(1000).default(1),
    failureThreshold: z.int().min(1).max(1000).default(3),
  })
  .refine(
    (probe) => [probe.exec, probe.httpGet, probe.tcpSocket].filter(Boolean).length === 1,
    'a probe needs exactly one of exec, httpGet and tcpSocket',
  )
export type ProbeSpec = z.infer<typeof probeSchema>

const containerSchema = z
  .object({
    name: shortName,
    command: z.array(argument).max(1000).default([]),
    args: z.array(argument).max(1000).default([]),
    env: z.array(envSchema).max(1000).default([]),
    envFrom: absentList('ConfigMaps and Secrets are not supported by local pods'),
    workingDir: argument.refine((path) => path.startsWith('/'), 'must be an absolute path').optional(),
    ports: z.array(z.object({ name: portName.optional(), containerPort: portNumber, protocol })).max(1000).default([]),
    livenessProbe: probeSchema.optional(),
    readinessProbe: probeSchema.optional(),
    startupProbe: probeSchema.optional(),
    lifecycle: z.object({ preStop: z.object({ exec: execSchema.optional() }).optional() }).optional(),
    securityContext: z
      .object({
        privileged: z.boolean().default(false),
        allowPrivilegeEscalation: z.boolean().default(true),
        runAsUser: z.int().min(0).max(2 ** 31 - 1).optional(),
        runAsGroup: z.int().min(0).max(2 ** 31 - 1).optional(),
        capabilities: z
          .object({ add: z.array(z.string()).max(64).default([]), drop: z.array(z.string()).max(64).default([]) })
          .optional(),
      })
      .optional(),
  })
  .refine((container) => container.command.length > 0, {
    path: ['command'],
    message: 'a local container needs a command: images are not run here',
  })
export type ContainerSpec = z.infer<typeof containerSchema>

const podSpecSchema = z
  .object({
    containers: z.array(containerSchema).min(1).max(50),
    initContainers: absentList('init containers are not supported by local pods'),
    hostNetwork: z.literal(false, 'the host network is not open to local pods').optional(),
    restartPolicy: z.enum(['Always', 'OnFailure', 'Never']).default('Always'),
    terminationGracePeriodSeconds: seconds.min(0).default(30),
    nodeName: shortName.optional(),
    nodeSelector: z.record(z.string(), z.string()).default({}),
    serviceAccountName: objectName.default('default'),
    hostname: shortName.optional(),
    subdomain: shortName.optional(),
    dnsPolicy: z.enum(['ClusterFirst', 'ClusterFirstWithHostNet', 'Default', 'None']).default('ClusterFirst'),
    dnsConfig: z
      .object({
        nameservers: z.array(ip).max(3).default([]),
        searches: z.array(z.string().max(253).regex(/^[^\s]*$/, 'must not contain spaces')).max(32).default([]),
        options: z
          .array(z.object({
            name: z.string().max(64).regex(/^[a-z0-9-]+$/, 'must be a resolver option'),
            value: z.string().max(64).regex(/^[a-z0-9-]*$/, 'must be a plain word').optional(),
          }))
          .max(32)
          .default([]),
      })
      .optional(),
    securityContext: z
      .object({ runAsUser: z.int().min(0).max(2 ** 31 - 1).optional(), runAsGroup: z.int().min(0).max(2 ** 31 - 1).optional() })
      .optional(),
  })
  .superRefine((spec, ctx) => {
    const seen = new Set<string>()
    spec.containers.forEach((container, i) => {
      if (seen.has(container.name)) {
        ctx.addIssue({ code: 'custom', path: ['containers', i, 'name'], message: `two containers are named ${container.name}` })
      }
      seen.add(container.name)
    })
    if (spec.dnsPolicy === 'None' && (spec.dnsConfig?.nameservers.length ?? 0) === 0) {
      ctx.addIssue({ code: 'custom', path: ['dnsPolicy'], message: 'dnsPolicy None needs dnsConfig.nameservers' })
    }
  })
export type PodSpec = z.infer<typeof podSpecSchema>

// A pod's name is also its host name, so it must fit in 63 characters unless spec.hostname says otherwise.
export const podSchema = z.object({ metadata, spec: podSpecSchema })

export const deploymentSchema = z
  .object({
    metadata,
    spec: z.object({
      replicas: z.int().min(0).max(1000).default(1),
      selector: z.object({ matchLabels: stringMap }).optional(),
      strategy: z.object({ type: z.enum(['RollingUpdate', 'Recreate']).default('RollingUpdate') }).optional(),
      template: z.object({ metadata: z.object({ labels: stringMap, annotations: stringMap }).prefault({}), spec: podSpecSchema }),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    for (const [key, value] of Object.entries(spec.selector?.matchLabels ?? {})) {
      if (spec.template.metadata.labels[key] !== value) {
        ctx.addIssue({ code: 'custom', path: ['spec', 'selector', 'matchLabels', key], message: 'the template does not carry this label' })
      }
    }
    if (spec.template.spec.restartPolicy !== 'Always') {
      ctx.addIssue({ code: 'custom', path: ['spec', 'template', 'spec', 'restartPolicy'], message: 'must be Always in a Deployment' })
    }
  })
export type DeploymentSpec = z.infer<typeof deploymentSchema>['spec']

/** The port a number or name means in a container; undefined if no container port has that name. */
export function resolvePort(reference: number | string, ports: ContainerSpec['ports'], wanted: 'TCP' | 'UDP' = 'TCP'): number | undefined {
  if (typeof reference === 'number') return reference
  return ports.find((port) => port.name === reference && port.protocol === wanted)?.containerPort
}
