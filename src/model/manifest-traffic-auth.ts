// RequestAuthentication with Istio's spec: whose tokens are believed. AuthorizationProvider, our own: who is asked whether a
// request may pass. Shape only; what a proxy does with it is said where it is enforced. Unknown fields are refused: a misspelt
// `audiences` that were dropped would believe tokens meant for others.
import { z } from 'zod'
import { hostname, metadata, portNumber, shortName } from './manifest-fields.ts'
import { gatewayDuration, headerName, proxyHeaderProblem } from './manifest-route.ts'
import { istioDuration } from './manifest-traffic.ts'

const targetRef = z.strictObject({
  group: z.string().max(253).optional(), kind: z.string().min(1).max(63), name: z.string().min(1).max(253),
  namespace: shortName.optional(),
})
const claim = z.string().min(1).max(256)

const jwtRule = z
  .strictObject({
    issuer: z.string().min(1, 'must not be empty').max(2048),
    audiences: z.array(z.string().min(1).max(2048)).max(100).default([]),
    jwksUri: z.url({ protocol: /^https?$/, error: 'must be an http or https URL' }).max(2048).optional(),
    jwks: z.string().max(256 * 1024).optional(),
    fromHeaders: z.array(z.strictObject({ name: headerName, prefix: z.string().max(256).optional() })).max(16).default([]),
    fromParams: z.array(z.string().min(1).max(256)).max(16).default([]),
    fromCookies: z.array(z.string().min(1).max(256)).max(16).default([]),
    outputPayloadToHeader: headerName.optional(),
    forwardOriginalToken: z.boolean().default(false),
    outputClaimToHeaders: z.array(z.strictObject({ header: headerName, claim })).max(32).default([]),
    timeout: istioDuration.optional(),
    spaceDelimitedClaims: z.array(claim).max(32).default([]),
  })
  .refine(({ jwksUri, jwks }) => jwksUri === undefined || jwks === undefined, 'only one of jwksUri and jwks')
export type JwtRule = z.infer<typeof jwtRule>

export const requestAuthenticationSchema = z
  .object({
    metadata,
    spec: z
      .strictObject({
        selector: z.strictObject({ matchLabels: z.record(z.string().min(1).max(317), z.string().max(63)).default({}) }).optional(),
        targetRef: targetRef.optional(),
        targetRefs: z.array(targetRef).max(16).default([]),
        jwtRules: z.array(jwtRule).max(4096).default([]),
      })
      .prefault({}),
  })
  .refine(({ spec }) => !spec.selector || (!spec.targetRef && spec.targetRefs.length === 0), {
    path: ['spec', 'selector'], message: 'cannot stand beside targetRefs',
  })

/** Framing is the proxy's own, also where somebody else decides. */
const freeHeader = headerName.transform((name) => name.toLowerCase()).superRefine((name, ctx) => {
  const problem = proxyHeaderProblem(name)
  if (problem !== undefined) ctx.addIssue({ code: 'custom', message: problem })
})
const freeHeaders = z.array(freeHeader).max(64).default([])

export const authorizationProviderSchema = z
  .object({
    metadata,
    spec: z.strictObject({
      /** Envoy's contracts: `envoy.service.auth.v3.Authorization/Check`, or a request of the same method and path. */
      protocol: z.enum(['GRPC', 'HTTP']),
      /** Host name of a service, or its name in the own namespace. */
      service: hostname,
      port: portNumber,
      timeout: gatewayDuration.refine((ms) => ms > 0, 'must be longer than nothing').default(1_000),
      /** It cannot be asked: let the request pass. */
      failOpen: z.boolean().default(false),
      statusOnError: z.int().min(400).max(599).default(403),
      pathPrefix: z.string().max(1024).regex(/^(\/[!-~]*)?$/, 'must be a path').default(''),
      includeRequestHeaders: z.array(headerName.transform((name) => name.toLowerCase())).max(64).default([]),
      headersToUpstream: freeHeaders,
      headersToDownstream: freeHeaders,
      /** So much of the request's body goes along. */
      maxBodyBytes: z.int().min(0).max(1 << 20).default(0),
    }),
  })
  .superRefine(({ spec }, ctx) => {
    if (spec.protocol !== 'GRPC') return
    for (const field of ['pathPrefix', 'headersToUpstream', 'headersToDownstream'] as const) {
      if (spec[field].length > 0) ctx.addIssue({ code: 'custom', path: ['spec', field], message: 'belongs to the protocol HTTP' })
    }
  })
