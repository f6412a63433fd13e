// GatewayClass, Gateway and ReferenceGrant of the Gateway API, as its CRDs have them. Unknown fields are refused: a misspelt
// `allowedRoutes` that were dropped would open a listener to other namespaces. What is valid but not served here is kept, so
// that translation can say so on the object.
import { z } from 'zod'
import { clusterMetadata, metadata, objectName, portNumber, shortName } from './manifest-fields.ts'

const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/
export const gatewayGroup = 'gateway.networking.k8s.io'

/** Empty is the core group. */
export const group = z.string().max(253).refine((text) => text === '' || subdomain.test(text), 'must be an API group')
export const kind = z.string().max(63).regex(/^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$/, 'must be a kind')
export const sectionName = z.string().max(253).regex(subdomain, 'must be a DNS name in lower case')
export const referentName = z.string().min(1).max(253)
/** `a.example.com`, or `*.example.com` for every name below it. Addresses are none. */
export const routeHostname = z
  .string()
  .max(253)
  .regex(/^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/, 'must be a DNS name in lower case, at most its first label being *')
  .refine((text) => !/^[\d.]+$/.test(text), 'must not be an IP address')
/** A DNS name without wildcard. */
export const preciseHostname = routeHostname.refine((text) => !text.startsWith('*'), 'must not be a wildcard')

const labelValue = z.string().max(63)
const labelKey = z.string().min(1).max(317)
const labelSelector = z.strictObject({
  matchLabels: z.record(labelKey, labelValue).default({}),
  matchExpressions: z
    .array(
      z
        .strictObject({
          key: labelKey, operator: z.enum(['In', 'NotIn', 'Exists', 'DoesNotExist']),
          values: z.array(labelValue).max(1000).default([]),
        })
        .refine(({ operator, values }) => (operator === 'In' || operator === 'NotIn') === values.length > 0, 'values belong to In and NotIn, and those need them'),
    )
    .max(100)
    .default([]),
})
export type LabelSelector = z.infer<typeof labelSelector>

const secretRef = z.strictObject({
  group: group.default(''), kind: kind.default('Secret'), name: referentName, namespace: shortName.optional(),
})
export type SecretReference = z.infer<typeof secretRef>
const objectRef = z.strictObject({ group, kind, name: referentName, namespace: shortName.optional() })

const listenerTls = z
  .strictObject({
    mode: z.enum(['Terminate', 'Passthrough']).default('Terminate'),
    certificateRefs: z.array(secretRef).max(64).default([]),
    options: z.record(z.string().max(253), z.string().max(4096)).default({}),
  })
  .refine(
    ({ mode, certificateRefs, options }) => mode !== 'Terminate' || certificateRefs.length > 0 || Object.keys(options).length > 0,
    { path: ['certificateRefs'], message: 'a certificate is needed to terminate TLS' },
  )

const namespacesFrom = z
  .strictObject({ from: z.enum(['All', 'Selector', 'Same', 'None']).default('Same'), selector: labelSelector.optional() })
  .refine(({ from, selector }) => from !== 'Selector' || selector !== undefined, {
    path: ['selector'], message: 'is needed for from: Selector',
  })
export type NamespacesFrom = z.infer<typeof namespacesFrom>

const listener = z.strictObject({
  name: sectionName,
  hostname: routeHostname.optional(),
  port: portNumber,
  /** Upper case is one with lower case; `HBONE` is a waypoint's. */
  protocol: z.string().min(1).max(255).transform((text) => (text.includes('/') ? text : text.toUpperCase())),
  tls: listenerTls.optional(),
  allowedRoutes: z
    .strictObject({
      namespaces: namespacesFrom.prefault({}),
      kinds: z.array(z.strictObject({ group: group.default(gatewayGroup), kind })).max(8).default([]),
    })
    .prefault({}),
})
export type ListenerSpec = z.infer<typeof listener>

const frontendTls = z.strictObject({
  validation: z
    .strictObject({
      caCertificateRefs: z.array(objectRef).min(1).max(8),
      mode: z.enum(['AllowValidOnly', 'AllowInsecureFallback']).default('AllowValidOnly'),
    })
    .optional(),
})
export type FrontendTls = z.infer<typeof frontendTls>

export const gatewaySchema = z
  .object({
    metadata,
    spec: z.strictObject({
      gatewayClassName: objectName,
      listeners: z.array(listener).min(1).max(64),
      addresses: z.array(z.strictObject({ type: z.string().max(253).default('IPAddress'), value: z.string().max(253).optional() })).max(16).default([]),
      infrastructure: z
        .strictObject({
          labels: z.record(labelKey, labelValue).default({}),
          annotations: z.record(labelKey, z.string().max(4096)).default({}),
          parametersRef: z.strictObject({ group, kind, name: referentName }).optional(),
        })
        .optional(),
      allowedListeners: z.strictObject({ namespaces: namespacesFrom.optional() }).optional(),
      tls: z
        .strictObject({
          backend: z.strictObject({ clientCertificateRef: secretRef.optional() }).optional(),
          frontend: z
            .strictObject({
              default: frontendTls,
              perPort: z.array(z.strictObject({ port: portNumber, tls: frontendTls })).max(64).default([]),
            })
            .optional(),
        })
        .optional(),
      defaultScope: z.enum(['All', 'None']).optional(),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    const names = new Set<string>()
    spec.listeners.forEach(({ name, protocol, tls, hostname, port }, i) => {
      const refuse = (field: string, message: string): void => ctx.addIssue({
        code: 'custom', path: ['spec', 'listeners', i, field], message,
      })
      if (names.has(name)) refuse('name', `two listeners are named ${name}`)
      names.add(name)
      const hasTls = protocol === 'HTTPS' || protocol === 'TLS'
      if (!hasTls && tls && ['HTTP', 'TCP', 'UDP', 'HBONE'].includes(protocol)) refuse('tls', `does not belong to the protocol ${protocol}`)
      if (protocol === 'HTTPS' && tls?.mode === 'Passthrough') refuse('tls', 'HTTPS is terminated; passthrough needs the protocol TLS')
      if (hasTls && !tls) refuse('tls', `is needed for the protocol ${protocol}`)
      if (hostname !== undefined && ['TCP', 'UDP', 'HBONE'].includes(protocol)) refuse('hostname', `does not belong to the protocol ${protocol}`)
      const isRepeated = spec.listeners.findIndex((each) => each.port === port && each.protocol === protocol && each.hostname === hostname) !== i
      if (isRepeated) refuse('port', 'port, protocol and hostname are those of another listener')
    })
  })
export type GatewaySpec = z.infer<typeof gatewaySchema>['spec']

export const gatewayClassSchema = z.object({
  metadata: clusterMetadata,
  spec: z.strictObject({
    controllerName: z.string().max(253).regex(/^[a-z0-9.-]+\/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+$/, 'must be a domain and a path'),
    parametersRef: z.strictObject({ group, kind, name: referentName, namespace: shortName.optional() }).optional(),
    description: z.string().max(64).optional(),
  }),
})

export const referenceGrantSchema = z.object({
  metadata,
  spec: z.strictObject({
    from: z.array(z.strictObject({ group, kind, namespace: shortName })).min(1).max(16),
    to: z.array(z.strictObject({ group, kind, name: referentName.optional() })).min(1).max(16),
  }),
})
