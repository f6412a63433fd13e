// Stands in for what a ztunnel asks of the control plane: `control-plane-client.ts JSON`, run in the namespace of a node. As `xds`
// it stays and prints each state and all that it knows after each change; as `ca` it asks for one certificate and ends.
import { readFileSync } from 'node:fs'
import { silentLogger } from '../../src/core/log.ts'
import { MeshError } from '../../src/core/errors.ts'
import type { Identity } from '../../src/core/identity.ts'
import type { Workload } from '../../src/model/workload.ts'
import { CaClient } from '../../src/pki/ca-client.ts'
import { makeCsr, newKey } from '../../src/pki/csr.ts'
import { XdsClient } from '../../src/xds/client.ts'

export interface ClientPlan {
  readonly mode: 'xds' | 'ca'
  readonly address: string
  readonly serverName: string
  readonly rootsFile: string
  /** Text of the token; a file of that name where it begins with a slash, read at each use. */
  readonly token?: string
  readonly clusterId?: string
  /** What it says that it is. */
  readonly node?: string
  readonly identity?: Identity
  readonly ttlSeconds?: number
}

/** Workloads by uid; of services and policies the names. */
export interface KnownLine {
  readonly known: readonly string[]
  readonly workloads: Readonly<Record<string, Pick<Workload, 'node' | 'locality' | 'tunnelProtocol' | 'isHealthy'>>>
}
export interface StateLine {
  readonly state: string
  readonly because?: string
}
export type CaLine = { readonly chain: readonly string[] } | { readonly refused: string; readonly because: string }

const plan = JSON.parse(process.argv[2] ?? '{}') as ClientPlan
const print = (line: StateLine | KnownLine | CaLine): void => void process.stdout.write(`${JSON.stringify(line)}\n`)
const { token } = plan
const common = {
  address: plan.address,
  serverName: plan.serverName,
  roots: async () => readFileSync(plan.rootsFile, 'utf8'),
  ...(token !== undefined && { token: async () => (token.startsWith('/') ? readFileSync(token, 'utf8').trim() : token) }),
  ...(plan.clusterId !== undefined && { clusterId: plan.clusterId }),
}

async function askForCertificate(): Promise<void> {
  const { identity, ttlSeconds = 0 } = plan
  if (!identity) throw new TypeError('a certificate of whom?')
  const client = new CaClient(common)
  try {
    print({ chain: await client.request({ identity, csrPem: await makeCsr(identity, await newKey()), ttlSeconds }) })
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    print({ refused: error.code, because: error.message })
  } finally {
    client.close()
  }
}

function listen(): void {
  const known = new Set<string>()
  const workloads = new Map<string, Workload>()
  const client = new XdsClient({
    ...common,
    node: {
      id: `ztunnel~10.9.9.9~ztunnel-${process.pid}.sidestep-system~sidestep-system.svc.cluster.local`,
      metadata: plan.node === undefined ? {} : { NODE_NAME: plan.node },
    },
    backoff: { firstMs: 20, maxMs: 200 },
    logger: silentLogger,
    onState: (state) => print({ state: state.t, ...(state.t === 'waiting' && { because: state.because }) }),
    onDelta: (delta) => {
      for (const name of [...delta.removedAddresses, ...delta.removedPolicies]) {
        known.delete(name)
        workloads.delete(name)
      }
      for (const each of delta.workloads) workloads.set(each.uid, each)
      for (const each of [...workloads.keys(), ...delta.services.map((s) => `${s.namespace}/${s.hostname}`), ...delta.policies.map((p) => `${p.namespace}/${p.name}`)]) known.add(each)
      print({
        known: [...known].sort(),
        workloads: Object.fromEntries([...workloads].map(([uid, { node, locality, tunnelProtocol, isHealthy }]) => [uid, { node, locality, tunnelProtocol, isHealthy }])),
      })
    },
  })
  client.start()
}

if (plan.mode === 'ca') await askForCertificate()
else if (plan.mode === 'xds') listen()
