// What a resolv.conf says of searching for names, as resolvers read it (resolv.conf(5)): the last `search` or `domain` line counts, and
// the last ndots. Never throws: what a resolver would pass over is passed over.

export interface NameSearch {
  /** Lower case, without a final dot, in order. */
  readonly searchDomains: string[]
  /** Names with fewer dots are searched for in those domains first. */
  readonly ndots: number
}

/** glibc's and musl's, where the file says nothing. */
const defaultNdots = 1
/** glibc takes a larger one for this. */
const maxNdots = 15
const maxDomains = 32

export function readNameSearch(text: string): NameSearch {
  let searchDomains: string[] = []
  let ndots = defaultNdots
  for (const line of text.split('\n')) {
    const [keyword, ...words] = line.trim().split(/\s+/)
    if (keyword === 'search' || keyword === 'domain') {
      searchDomains = words.map((word) => word.toLowerCase().replace(/\.$/, '')).filter((word) => word !== '' && word.length <= 253).slice(0, maxDomains)
    } else if (keyword === 'options') {
      for (const word of words) {
        const [, digits] = /^ndots:(\d{1,4})$/.exec(word) ?? []
        if (digits !== undefined) ndots = Math.min(Number(digits), maxNdots)
      }
    }
  }
  return { searchDomains, ndots }
}
