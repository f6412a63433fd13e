// Who somebody is: a SPIFFE identity of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT, as in a certificate's
// URI SAN. Parsing is exact: what is not precisely of this form is nobody.

export interface Identity {
  readonly trustDomain: string
  readonly namespace: string
  readonly serviceAccount: string
}

// SPIFFE ID specification, section 2.1: lower-case trust domain; path segments of letters, digits, dot, dash, underscore.
const pattern = /^spiffe:\/\/([a-z0-9._-]{1,255})\/ns\/([a-zA-Z0-9._-]{1,253})\/sa\/([a-zA-Z0-9._-]{1,253})$/

/** Undefined for anything that is not a workload's SPIFFE identity; `.` and `..` are no segments. */
export function parseIdentity(uri: string): Identity | undefined {
  const found = pattern.exec(uri)
  if (!found) return undefined
  const [, trustDomain = '', namespace = '', serviceAccount = ''] = found
  if ([namespace, serviceAccount].some((segment) => segment === '.' || segment === '..')) return undefined
  return { trustDomain, namespace, serviceAccount }
}

/** The URI; also the key for maps. */
export function formatIdentity({ trustDomain, namespace, serviceAccount }: Identity): string {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${serviceAccount}`
}
