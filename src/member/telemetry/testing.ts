// The text formats of metrics (Prometheus 0.0.4 and OpenMetrics 1.0) held against their own rules, for tests: a scrape that breaks one
// of them loses everything.
const labels = String.raw`\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*")*\}`
const sampleLine = new RegExp(String.raw`^([a-zA-Z_:][a-zA-Z0-9_:]*)(${labels})? (\+Inf|-Inf|Na[Nn]|-?[0-9.]+(?:e[+-]?[0-9]+)?)$`)

function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(what)
}

/** Names of the families. Each has HELP and TYPE, once and together; each sample belongs to the family above it, and to no other series. */
export function metricFamilies(text: string, form: 'plain' | 'open'): readonly string[] {
  const lines = text.split('\n').filter((line) => line !== '' && line !== '# EOF')
  const families: string[] = []
  const series = new Set<string>()
  let type = ''
  for (const [i, line] of lines.entries()) {
    const family = families.at(-1) ?? ''
    const help = /^# HELP (\S+) \S.*$/.exec(line)
    const kind = /^# TYPE (\S+) (counter|gauge|histogram)$/.exec(line)
    if (help) {
      families.push(help[1] ?? '')
      must(lines[i + 1]?.startsWith(`# TYPE ${help[1]} `) ?? false, `${line} without its type`)
    } else if (kind) {
      must(kind[1] === family, `${line} below ${family}`)
      type = kind[2] ?? ''
    } else {
      const [, name = '', set = ''] = sampleLine.exec(line) ?? []
      must(name !== '', `no sample: ${line}`)
      const suffixes = { counter: form === 'open' ? ['_total'] : [''], gauge: [''], histogram: ['_bucket', '_sum', '_count'] }[type] ?? []
      must(suffixes.some((suffix) => family + suffix === name), `${line} below ${family}, a ${type}`)
      must(type !== 'counter' || name.endsWith('_total'), `a counter's name: ${line}`)
      must(!series.has(name + set), `twice: ${line}`)
      series.add(name + set)
    }
  }
  must(new Set(families).size === families.length, 'a family twice')
  return families
}
