// Domain names as text: lower case, no final dot, checked against RFC 1035's limits. Comparison is by this form only.

const maxNameLength = 253
const maxLabelLength = 63

/** The canonical form; undefined for what is no name (empty labels, too long, or with bytes that no mesh name has). */
export function canonicalName(name: string): string | undefined {
  const bare = (name.endsWith('.') ? name.slice(0, -1) : name).toLowerCase()
  if (bare.length === 0 || bare.length > maxNameLength) return undefined
  const labels = bare.split('.')
  return labels.every((label) => label.length > 0 && label.length <= maxLabelLength && /^[a-z0-9_*-]+$/.test(label)) ? bare : undefined
}

/** `*.b.c` and `*.c` for `a.b.c`, most specific first: the wildcards that may stand for a name. */
export function wildcardsOf(name: string): string[] {
  const found: string[] = []
  for (let at = name.indexOf('.'); at >= 0; at = name.indexOf('.', at + 1)) found.push(`*${name.slice(at)}`)
  return found
}

/** What a name may mean to a client with that search list, as its resolver would have it. */
export interface Candidate {
  readonly name: string
  /** The client asked with one of its own search domains appended; this is the name without it. */
  readonly isStripped: boolean
}

/**
 * The name as asked; with each search domain appended, where it has fewer dots than `ndots`; and, where it ends in a search
 * domain, what its resolver would ask next if there were no such name: the rest with each later domain, and the rest alone.
 * A resolver with a high ndots asks `example.com.shop.svc.cluster.local` first, and can be answered at once.
 */
export function candidates(name: string, searchDomains: readonly string[], ndots: number): Candidate[] {
  const found: Candidate[] = [{ name, isStripped: false }]
  if (countDots(name) < ndots) for (const domain of searchDomains) found.push({ name: `${name}.${domain}`, isStripped: false })
  for (const [index, domain] of searchDomains.entries()) {
    if (!name.endsWith(`.${domain}`)) continue
    const rest = name.slice(0, -domain.length - 1)
    if (countDots(rest) < ndots) for (const later of searchDomains.slice(index + 1)) found.push({ name: `${rest}.${later}`, isStripped: true })
    found.push({ name: rest, isStripped: true })
  }
  return found
}

function countDots(name: string): number {
  let count = 0
  for (let at = name.indexOf('.'); at >= 0; at = name.indexOf('.', at + 1)) count++
  return count
}

/** The address that a PTR question asks about (RFC 1035 section 3.5, RFC 3596 section 2.5); undefined if it is another name. */
export function addressOfReverseName(name: string): string | undefined {
  const labels = name.split('.')
  const top = labels.slice(-2).join('.')
  if (top === 'in-addr.arpa' && labels.length === 6) {
    const octets = labels.slice(0, 4).reverse()
    return octets.every((octet) => /^(0|[1-9]\d{0,2})$/.test(octet) && Number(octet) <= 255) ? octets.join('.') : undefined
  }
  if (top === 'ip6.arpa' && labels.length === 34) {
    const nibbles = labels.slice(0, 32).reverse()
    if (!nibbles.every((nibble) => /^[0-9a-f]$/.test(nibble))) return undefined
    return Array.from({ length: 8 }, (_, group) => nibbles.slice(group * 4, group * 4 + 4).join('')).join(':')
  }
  return undefined
}
