// AuthorizationPolicy and PeerAuthentication with Istio's spec. Unknown fields are refused here, unlike elsewhere: a
// misspelt `principals` that were dropped would leave a rule that lets everybody in.
import { z } from 'zod'
import { ipOrCidr, metadata, portNumber, shortName } from './manifest-fields.ts'

/** An empty list would read as "nobody" to some and "everybody" to others; Istio refuses it too. */
const someStrings = z.array(z.string().min(1, 'must not be empty').max(4096)).min(1, 'must not be an empty list').max(1000).optional()
const someBlocks = z.array(ipOrCidr).min(1, 'must not be an empty list').max(1000).optional()
const portText = z
  .string('must be a port number in quotes')
  .regex(/^\d{1,5}$/, 'must be a port number in quotes')
  .refine((text) => portNumber.safeParse(Number(text)).success, 'must be 1 to 65535')
const somePorts = z.array(portText).min(1, 'must not be an empty list').max(1000).optional()

function isFilled(value: object): boolean {
  return Object.values(value).some((each) => each !== undefined)
}

const source = z
  .strictObject({
    principals: someStrings,
    notPrincipals: someStrings,
    requestPrincipals: someStrings,
    notRequestPrincipals: someStrings,
    namespaces: someStrings,
    notNamespaces: someStrings,
    serviceAccounts: someStrings,
    notServiceAccounts: someStrings,
    ipBlocks: someBlocks,
    notIpBlocks: someBlocks,
    remoteIpBlocks: someBlocks,
    notRemoteIpBlocks: someBlocks,
  })
  .refine(isFilled, 'must name at least one property')
export type PolicySource = z.infer<typeof source>

const operation = z
  .strictObject({
    hosts: someStrings,
    notHosts: someStrings,
    ports: somePorts,
    notPorts: somePorts,
    methods: someStrings,
    notMethods: someStrings,
    paths: someStrings,
    notPaths: someStrings,
  })
  .refine(isFilled, 'must name at least one property')
export type PolicyOperation = z.infer<typeof operation>

/** Keys that a connection alone can answer. */
export const l4Conditions = [
  'source.ip', 'source.namespace', 'source.principal', 'source.serviceAccount', 'destination.ip', 'destination.port',
] as const
export type L4Condition = (typeof l4Conditions)[number]
const l7Condition = /^(request\.headers\[[^\]]+\]|request\.auth\.(principal|audiences|presenter|claims\[.+\])|remote\.ip|connection\.sni|experimental\..+)$/

export function isL4Condition(key: string): key is L4Condition {
  return l4Conditions.some((known) => known === key)
}

const condition = z
  .strictObject({ key: z.string().max(1024), values: someStrings, notValues: someStrings })
  .superRefine(({ key, values, notValues }, ctx) => {
    if (!isL4Condition(key) && !l7Condition.test(key)) ctx.addIssue({ code: 'custom', path: ['key'], message: `${key.slice(0, 100)} is not a known key` })
    if (!values && !notValues) ctx.addIssue({ code: 'custom', path: ['values'], message: 'values or notValues is needed' })
    const shape = key === 'source.ip' || key === 'destination.ip' ? ipOrCidr : key === 'destination.port' ? portText : undefined
    for (const [name, list] of [['values', values], ['notValues', notValues]] as const) {
      list?.forEach((value, i) => {
        if (shape && !shape.safeParse(value).success) ctx.addIssue({ code: 'custom', path: [name, i], message: `is no value for ${key}` })
      })
    }
  })
export type PolicyCondition = z.infer<typeof condition>

const rule = z.strictObject({
  from: z.array(z.strictObject({ source })).min(1, 'must not be an empty list').max(1000).optional(),
  to: z.array(z.strictObject({ operation })).min(1, 'must not be an empty list').max(1000).optional(),
  when: z.array(condition).max(1000).optional(),
})
export type PolicyRule = z.infer<typeof rule>

const labelSelector = z.strictObject({ matchLabels: z.record(z.string().min(1).max(317), z.string().max(63)).default({}) })
const targetRef = z.strictObject({
  group: z.string().max(253).optional(),
  kind: z.string().min(1).max(63),
  name: z.string().min(1).max(253),
  namespace: shortName.optional(),
})

export const authorizationPolicySchema = z
  .object({
    metadata,
    spec: z
      .strictObject({
        selector: labelSelector.optional(),
        targetRef: targetRef.optional(),
        targetRefs: z.array(targetRef).max(16).optional(),
        action: z.enum(['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']).default('ALLOW'),
        provider: z.strictObject({ name: z.string().max(253) }).optional(),
        rules: z.array(rule).max(1000).default([]),
      })
      .prefault({}),
  })
  .superRefine(({ spec }, ctx) => {
    const isTargeted = spec.targetRef !== undefined || (spec.targetRefs?.length ?? 0) > 0
    if (isTargeted && spec.selector) ctx.addIssue({ code: 'custom', path: ['spec', 'selector'], message: 'cannot stand beside targetRefs' })
    if (spec.action === 'DENY' && spec.rules.length === 0) {
      ctx.addIssue({ code: 'custom', path: ['spec', 'rules'], message: 'a DENY without rules denies nothing; `rules: [{}]` denies everything' })
    }
  })

const mtls = z.strictObject({ mode: z.enum(['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT']).default('UNSET') })
export type MtlsMode = z.infer<typeof mtls>['mode']

export const peerAuthenticationSchema = z
  .object({
    metadata,
    spec: z
      .strictObject({
        selector: labelSelector.optional(),
        mtls: mtls.optional(),
        portLevelMtls: z.record(portText, mtls).default({}),
      })
      .prefault({}),
  })
  .superRefine(({ spec }, ctx) => {
    if (Object.keys(spec.portLevelMtls).length > 0 && Object.keys(spec.selector?.matchLabels ?? {}).length === 0) {
      ctx.addIssue({ code: 'custom', path: ['spec', 'portLevelMtls'], message: 'needs a selector: ports belong to workloads' })
    }
  })
