// Time of one authorization decision with 1,000 policies: `node test/bench/rbac.ts`. Prints nanoseconds per decision for
// policies spread over namespaces, all in one namespace, and all global; and the first decision after one change.
import type { Authorization, Match } from '../../src/model/authorization.ts'
import { PolicyIndex } from '../../src/model/policy-index.ts'
import { Rbac } from '../../src/policy/rbac.ts'

const count = 1000
const emptyMatch: Match = {
  namespaces: [], notNamespaces: [], principals: [], notPrincipals: [], serviceAccounts: [], notServiceAccounts: [],
  sourceIps: [], notSourceIps: [], destinationIps: [], notDestinationIps: [], destinationPorts: [], notDestinationPorts: [],
}

type Shape = 'principals' | 'ranges' | 'prefixes'
function policyOf(i: number, scope: Authorization['scope'], namespace: string, shape: Shape): Authorization {
  const from: Readonly<Record<Shape, Partial<Match>>> = {
    principals: { principals: [0, 1, 2].map((n) => ({ kind: 'exact', value: `cluster.local/ns/ns${i % 50}/sa/app${i + n}` })) },
    ranges: { sourceIps: [0, 1, 2].map((n) => ({ ip: `10.${i % 200}.${n}.0`, prefixLength: 24 })) },
    prefixes: { principals: [{ kind: 'prefix', value: `cluster.local/ns/ns${i}/` }] },
  }
  const action = i % 10 === 0 ? 'deny' : 'allow'
  return {
    name: `p${i}`, namespace, scope, action, isDryRun: false,
    rules: [[[{ ...emptyMatch, ...from[shape] }], [{ ...emptyMatch, destinationPorts: [8080, 9090] }]]],
  }
}

function measure(label: string, scope: Authorization['scope'], namespaces: number, shape: Shape): void {
  const index = new PolicyIndex()
  for (let i = 0; i < count; i++) index.upsert(policyOf(i, scope, `ns${i % namespaces}`, shape))
  const rbac = new Rbac(index)
  const target = { namespace: 'ns0', policies: [] }
  const connections = Array.from({ length: 256 }, (_, i) => ({
    identity: { trustDomain: 'cluster.local', namespace: `ns${i % 50}`, serviceAccount: `app${i}` },
    sourceIp: `10.${i % 250}.1.7`, destination: { ip: '10.9.0.1', port: i % 2 ? 8080 : 7070 },
  }))
  const run = (rounds: number): number => {
    const start = process.hrtime.bigint()
    let allowed = 0
    for (let r = 0; r < rounds; r++) {
      for (const connection of connections) if (rbac.evaluate(target, connection).allowed) allowed++
    }
    if (allowed < 0) throw new Error('unreachable; keeps the loop alive')
    return Number(process.hrtime.bigint() - start) / (rounds * connections.length)
  }
  const rounds = shape !== 'principals' && namespaces === 1 ? 20 : 400
  run(rounds)
  const nanoseconds = run(rounds)
  index.upsert(policyOf(count, scope, 'ns0', shape))
  const start = process.hrtime.bigint()
  const [first] = connections
  if (first) rbac.evaluate(target, first)
  const afterChangeUs = Number(process.hrtime.bigint() - start) / 1000
  const figures = `${nanoseconds.toFixed(0).padStart(8)} ns/decision   first after a change ${afterChangeUs.toFixed(0).padStart(6)} us`
  console.log(`${label.padEnd(46)} ${figures}`)
}

for (const shape of ['principals', 'ranges', 'prefixes'] as const) {
  measure(`${count} policies over 100 namespaces, ${shape}`, 'namespace', 100, shape)
  measure(`${count} policies in one namespace, ${shape}`, 'namespace', 1, shape)
  measure(`${count} global policies, ${shape}`, 'global', 1, shape)
}
