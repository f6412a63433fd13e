// ServiceEntry and WorkloadEntry with Istio's spec: services and workloads that Kubernetes does not run.
import { z } from 'zod'
import { ipToBytes } from '../core/address.ts'
import { hostname, ip, ipOrCidr, metadata, portNumber } from './manifest-fields.ts'

const wildcardHost = z
  .string()
  .max(253)
  .regex(
    /^(\*\.)?[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$/,
    'must be a DNS name in lower case, at most its first label being *',
  )

/** An IP address or a DNS name. A name of digits and dots that is no address is a misspelt address. */
const endpointAddress = z.union([ip, hostname.refine((text) => !/^[\d.]+$/.test(text), 'is not an IP address')])

const labels = z.record(z.string().max(317), z.string().max(63)).default({})
const workloadFields = {
  address: endpointAddress.optional(),
  ports: z.record(z.string().max(63), portNumber).default({}),
  labels,
  network: z.string().max(253).optional(),
  locality: z.string().max(760).optional(),
  weight: z.int().min(0).max(2 ** 31 - 1).optional(),
  serviceAccount: z.string().max(253).optional(),
}

const workloadEntrySpec = z.strictObject(workloadFields)
export type WorkloadEntrySpec = z.infer<typeof workloadEntrySpec>

export const workloadEntrySchema = z
  .object({ metadata, spec: workloadEntrySpec })
  .superRefine(({ spec }, ctx) => {
    if (spec.address === undefined) ctx.addIssue({ code: 'custom', path: ['spec', 'address'], message: 'an address is required' })
  })

const tcpProtocols = ['HTTP', 'HTTPS', 'GRPC', 'GRPC-WEB', 'HTTP2', 'MONGO', 'TCP', 'TLS', 'MYSQL', 'REDIS'] as const

const entryPort = z.strictObject({
  number: portNumber,
  name: z.string().min(1).max(63),
  protocol: z.string().max(20).transform((text) => text.toUpperCase()).pipe(z.enum([...tcpProtocols, 'UDP'])).default('TCP'),
  targetPort: portNumber.optional(),
})
export type EntryPort = z.infer<typeof entryPort>

export const serviceEntrySchema = z
  .object({
    metadata,
    spec: z.strictObject({
      hosts: z.array(wildcardHost).min(1).max(1000),
      addresses: z.array(ipOrCidr).max(1000).default([]),
      ports: z.array(entryPort).max(1000).default([]),
      location: z.enum(['MESH_EXTERNAL', 'MESH_INTERNAL']).default('MESH_EXTERNAL'),
      resolution: z.enum(['NONE', 'STATIC', 'DNS', 'DNS_ROUND_ROBIN'], 'must be NONE, STATIC, DNS or DNS_ROUND_ROBIN').default('NONE'),
      endpoints: z.array(workloadEntrySpec).max(10_000).default([]),
      workloadSelector: z
        .strictObject({ labels: z.record(z.string().min(1).max(317), z.string().max(63)) })
        .refine((selector) => Object.keys(selector.labels).length > 0, 'must name a label')
        .optional(),
      exportTo: z.array(z.string().max(253)).max(1000).optional(),
      subjectAltNames: z.array(z.string().max(2048)).max(1000).default([]),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    const refuse = (path: PropertyKey[], message: string): void => ctx.addIssue({ code: 'custom', path: ['spec', ...path], message })
    const seen = new Set<number>()
    const names = new Set<string>()
    spec.ports.forEach(({ number, name }, i) => {
      if (seen.has(number)) refuse(['ports', i, 'number'], `port ${number} is listed twice`)
      if (names.has(name)) refuse(['ports', i, 'name'], `the name ${name} is given twice`)
      seen.add(number)
      names.add(name)
    })
    if (spec.workloadSelector && spec.endpoints.length > 0) refuse(['endpoints'], 'cannot stand beside workloadSelector')
    if (spec.resolution === 'NONE' && spec.endpoints.length > 0) refuse(['endpoints'], 'resolution NONE goes where the client asked; endpoints need STATIC or DNS')
    const isDns = spec.resolution === 'DNS' || spec.resolution === 'DNS_ROUND_ROBIN'
    if (isDns && spec.workloadSelector) refuse(['workloadSelector'], 'needs resolution STATIC')
    if (isDns && spec.endpoints.length === 0 && spec.hosts.some((host) => host.startsWith('*'))) {
      refuse(['hosts'], 'a wildcard cannot be looked up; name endpoints, or use resolution NONE')
    }
    spec.endpoints.forEach((endpoint, i) => {
      if (endpoint.address === undefined) refuse(['endpoints', i, 'address'], 'an address is required')
      else if (spec.resolution === 'STATIC' && ipToBytes(endpoint.address) === undefined) refuse(['endpoints', i, 'address'], 'resolution STATIC needs IP addresses')
      for (const name of Object.keys(endpoint.ports)) {
        if (!names.has(name)) refuse(['endpoints', i, 'ports', name], 'the entry has no port of that name')
      }
    })
  })
