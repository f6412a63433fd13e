// X-Forwarded-Client-Cert as Envoy writes it: who the caller proved to be, and to whom. One element per hop, `Key=value` pairs
// joined by semicolons; a value with a separator in it is quoted. Values come from certificates that others made, so what could
// break out of its pair is escaped, and what could break out of the line is left away.
import { formatIdentity } from '../../core/identity.ts'
import type { Identity } from '../../core/identity.ts'
import { isFieldValue } from '../../policy/l7/header-change.ts'
import type { ConnectionContext } from '../context.ts'

/** Undefined where the caller proved nothing. `own` is who the caller spoke to: us. */
export function clientCertificateElement(
  { caller, clientCertificate }: ConnectionContext, own: Identity | undefined,
): string | undefined {
  const uri = caller.identity && formatIdentity(caller.identity)
  const pairs: (readonly [key: string, value: string])[] = []
  if (own) pairs.push(['By', formatIdentity(own)])
  if (clientCertificate) {
    const { hash, subject, uris, dnsNames } = clientCertificate
    pairs.push(
      ['Hash', hash], ['Subject', subject], ...uris.map((each) => ['URI', each] as const),
      ...dnsNames.map((each) => ['DNS', each] as const)
    )
  }
  if (uri !== undefined && clientCertificate?.uris.includes(uri) !== true) pairs.push(['URI', uri])
  if (!clientCertificate && uri === undefined) return undefined
  return pairs.flatMap(([key, value]) => {
    const text = valueOf(key, value)
    return text === undefined ? [] : [`${key}=${text}`]
  }).join(';')
}

/** Envoy quotes subjects always, others where they need it. */
function valueOf(key: string, value: string): string | undefined {
  const bytes = Buffer.from(value, 'utf8').toString('latin1')
  if (!isFieldValue(bytes)) return undefined
  if (key !== 'Subject' && !/[",;=\\\s]/.test(bytes)) return bytes
  return `"${bytes.replaceAll(/["\\]/g, '\\$&')}"`
}
