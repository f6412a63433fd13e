// PEM blocks (RFC 7468) to DER and back. Only the labels asked for are returned; text between blocks is allowed, as files of
// certificates often carry comments, but a block that is broken is an error rather than skipped: it may be the one that matters.
import { MeshError } from '../core/errors.ts'

const block = /-----BEGIN ([A-Z0-9 ]{1,40})-----([^-]*)-----END ([A-Z0-9 ]{1,40})-----/g
const base64 = /^[A-Za-z0-9+/]+={0,2}$/
export const certificateLabels = ['CERTIFICATE', 'X509 CERTIFICATE', 'TRUSTED CERTIFICATE'] as const

/** DER of each block with one of `labels`, in order. Throws BAD_MESSAGE for broken blocks. */
export function decodePem(text: string, labels: readonly string[]): Buffer[] {
  const found: Buffer[] = []
  let count = 0
  for (const [, begin = '', body = '', end = ''] of text.matchAll(block)) {
    count++
    if (begin !== end) throw new MeshError('BAD_MESSAGE', `PEM block begins as ${begin} and ends as ${end}`)
    if (!labels.includes(begin)) continue
    const compact = body.replace(/\s+/g, '')
    if (!base64.test(compact) || compact.length % 4 !== 0) throw new MeshError('BAD_MESSAGE', `PEM block ${begin} is not base64`)
    found.push(Buffer.from(compact, 'base64'))
  }
  const begins = text.split('-----BEGIN ').length - 1
  if (begins !== count) throw new MeshError('BAD_MESSAGE', 'a PEM block is cut off')
  return found
}

/** One block, lines of 64 characters, newline at the end. */
export function encodePem(label: string, der: Uint8Array): string {
  const lines = Buffer.from(der).toString('base64').match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

/** All certificates of a PEM text as DER. */
export function certificatesOf(pem: string): Buffer[] {
  return decodePem(pem, certificateLabels)
}

export function certificatePem(der: Uint8Array): string {
  return encodePem('CERTIFICATE', der)
}
