// Secrets and ConfigMaps as far as proxies need them: certificates, keys and authorities. What is in them must not appear in any
// message: a key that is no plain name, and every value, may be a part of somebody's private key. Data is decoded after reading.
import { z } from 'zod'
import { metadata } from './manifest-fields.ts'

/** Kubernetes' own limit for all of an object's data. */
const maxBytes = 1 << 20
/** A longer name may be a line of a key that went astray. */
const longestShown = 40
const plainName = /^[-._a-zA-Z0-9]{1,253}$/

/** Names to text; `decode` gives undefined where a value is none. */
function dataOf(decode: (text: string) => string | undefined, expected: string) {
  return z
    .unknown()
    .optional()
    .transform((value, ctx): Readonly<Record<string, string>> => {
      if (value === undefined) return {}
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        ctx.addIssue({ code: 'custom', message: 'must be a mapping' })
        return z.NEVER
      }
      const found: [string, string][] = []
      let bytes = 0
      for (const [name, text] of Object.entries(value)) {
        const decoded = typeof text === 'string' ? decode(text) : undefined
        const refuse = (message: string, path: string[] = []): void => ctx.addIssue({ code: 'custom', path, message })
        if (!plainName.test(name)) refuse('a name in it must be of letters, digits, -, _ and .')
        else if (decoded === undefined) refuse(expected, name.length <= longestShown ? [name] : [])
        else found.push([name, decoded])
        bytes += typeof text === 'string' ? text.length : 0
      }
      if (bytes > 2 * maxBytes) ctx.addIssue({ code: 'custom', message: `is larger than ${maxBytes} bytes` })
      return Object.fromEntries(found)
    })
}

function fromBase64(text: string): string | undefined {
  const packed = text.replace(/\s+/g, '')
  const isBase64 = packed.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(packed)
  return isBase64 ? Buffer.from(packed, 'base64').toString('utf8') : undefined
}

const plain = dataOf((text) => text, 'must be text')

export const secretSchema = z
  .object({
    metadata, type: z.string().max(253).default('Opaque'), data: dataOf(fromBase64, 'must be base64'), stringData: plain,
  })
  // As in Kubernetes: what is written as text counts.
  .transform(({ stringData, data, ...rest }) => ({ ...rest, data: { ...data, ...stringData } }))

export const configMapSchema = z.object({ metadata, data: plain })
