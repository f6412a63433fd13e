// Fields that many kinds of objects share: names, labels, ports, addresses and metadata. Shapes only; what a kind does with
// them is said where the kind is.
import { z } from 'zod'

const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/
const dnsLabel = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/
export const objectName = z.string().max(253).regex(subdomain, 'must be a DNS name in lower case')
export const shortName = z.string().max(63).regex(dnsLabel, 'must be a DNS label in lower case')
/** Kubernetes keeps names that the container runtime sees free of control characters; so do we. */
export const argument = z.string().max(128 * 1024).refine((text) => !text.includes('\0'), 'must not contain NUL')
export const stringMap = z.record(z.string().max(317), z.string().max(256 * 1024)).default({})
export const portNumber = z.int().min(1).max(65535)
export const portName = z.string().max(15).regex(/^[a-z0-9-]*[a-z][a-z0-9-]*$/, 'must be a port name (IANA service name)')
export const portReference = z.union([portNumber, portName])
export const protocol = z.enum(['TCP', 'UDP']).default('TCP')
export const seconds = z.int().max(86_400)
export const ip = z.union([z.ipv4(), z.ipv6()])

/** What is not there must not be: for lists whose presence would change what runs. */
export function absentList(why: string): z.ZodOptional<z.ZodArray<z.ZodUnknown>> {
  return z.array(z.unknown()).max(0, why).optional()
}

/** Of an object without a namespace. */
export const clusterMetadata = z.object({
  name: objectName,
  labels: stringMap,
  annotations: stringMap,
  /** Of two objects that claim the same thing the older counts; files rarely say it, and then the name decides. */
  creationTimestamp: z.iso.datetime({ offset: true }).optional(),
})
export const metadata = clusterMetadata.extend({ namespace: shortName.default('default') })

/** A host name that DNS can ask for. */
export const hostname = z.string().max(253).regex(subdomain, 'must be a DNS name in lower case')
/** `10.0.0.0/8`, or a single address. */
export const ipOrCidr = z.union([ip, z.cidrv4(), z.cidrv6()])
