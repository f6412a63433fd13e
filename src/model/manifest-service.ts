// Services and the endpoints behind them, as Kubernetes has them.
import { z } from 'zod'
import { hostname, ip, metadata, objectName, portNumber, portReference, protocol, shortName } from './manifest-fields.ts'

const appProtocol = z.string().max(317).optional()

const servicePort = z.object({
  name: shortName.optional(),
  port: portNumber,
  targetPort: portReference.optional(),
  protocol,
  appProtocol,
})

export const serviceSchema = z
  .object({
    metadata,
    spec: z.object({
      type: z.enum(['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName']).default('ClusterIP'),
      selector: z.record(z.string(), z.string()).optional(),
      clusterIP: z.union([ip, z.literal('None'), z.literal('')]).optional(),
      clusterIPs: z.array(z.union([ip, z.literal('None')])).max(2).optional(),
      ipFamilyPolicy: z.enum(['SingleStack', 'PreferDualStack', 'RequireDualStack']).optional(),
      ipFamilies: z.array(z.enum(['IPv4', 'IPv6'])).min(1).max(2).optional(),
      externalName: hostname.optional(),
      publishNotReadyAddresses: z.boolean().default(false),
      sessionAffinity: z.enum(['None', 'ClientIP']).default('None'),
      sessionAffinityConfig: z
        .object({ clientIP: z.object({ timeoutSeconds: z.int().min(1).max(86_400).default(10_800) }).optional() })
        .optional(),
      internalTrafficPolicy: z.enum(['Cluster', 'Local']).default('Cluster'),
      trafficDistribution: z.enum(['PreferClose', 'PreferSameZone', 'PreferSameNode']).optional(),
      ports: z.array(servicePort).max(1000).default([]),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    const seen = new Set<string>()
    spec.ports.forEach((port, i) => {
      const key = `${port.protocol} ${port.port}`
      if (seen.has(key)) ctx.addIssue({ code: 'custom', path: ['spec', 'ports', i, 'port'], message: `port ${key} is listed twice` })
      seen.add(key)
      if (spec.ports.length > 1 && port.name === undefined) {
        ctx.addIssue({ code: 'custom', path: ['spec', 'ports', i], message: 'needs a name, because the service has several ports' })
      }
    })
    if (spec.type === 'ExternalName' && spec.externalName === undefined) {
      ctx.addIssue({ code: 'custom', path: ['spec', 'externalName'], message: 'is required for the type ExternalName' })
    }
  })
export type ServiceSpec = z.infer<typeof serviceSchema>['spec']

const endpoint = z.object({
  addresses: z.array(z.string().min(1).max(253)).min(1).max(100),
  conditions: z.object({ ready: z.boolean().optional(), serving: z.boolean().optional(), terminating: z.boolean().optional() }).prefault({}),
  hostname: shortName.optional(),
  nodeName: objectName.optional(),
  zone: z.string().max(253).optional(),
  targetRef: z.object({ kind: z.string().optional(), name: z.string().optional(), namespace: z.string().optional() }).optional(),
})
export type EndpointSliceEndpoint = z.infer<typeof endpoint>

export const endpointSliceSchema = z
  .object({
    metadata,
    addressType: z.enum(['IPv4', 'IPv6'], 'must be IPv4 or IPv6; slices of FQDN mean nothing to Kubernetes itself'),
    endpoints: z.array(endpoint).max(1000).default([]),
    ports: z.array(z.object({ name: z.string().max(63).default(''), port: portNumber.optional(), protocol, appProtocol })).max(100).default([]),
  })
  .superRefine((slice, ctx) => {
    const family = slice.addressType === 'IPv4' ? z.ipv4() : z.ipv6()
    slice.endpoints.forEach(({ addresses }, i) => addresses.forEach((address, j) => {
      if (family.safeParse(address).success) return
      ctx.addIssue({ code: 'custom', path: ['endpoints', i, 'addresses', j], message: `is not an ${slice.addressType} address` })
    }))
  })
/** Label of an EndpointSlice that names its Service. */
export const sliceServiceLabel = 'kubernetes.io/service-name'
