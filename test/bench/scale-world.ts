// The large mesh that the scale part measures: services with endpoints in namespaces, and policies, as files of YAML and as the
// lines in which running pods are told. The same numbers always give the same mesh.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RunningPod } from '../../src/model/running-pod.ts'

export interface ScaleSize {
  readonly services: number
  readonly podsPerService: number
  readonly policies: number
  readonly namespaces: number
  /** Of pods, one after another; a quarter as many of policies. */
  readonly changes: number
  readonly decisions: number
}

const nodes = 100
const address = (net: number, i: number): string => `${net}.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`
export const namespaceOf = ({ namespaces }: ScaleSize, service: number): string => `ns-${service % namespaces}`
export const vipOf = (service: number): string => address(172, service)

export function podOf(size: ScaleSize, i: number, ready = true): RunningPod {
  const service = Math.floor(i / size.podsPerService)
  return {
    uid: `uid-${i}`, namespace: namespaceOf(size, service), name: `app-${service}-7d9f8b-${i}`, node: `node-${i % nodes}`, ips: [address(10, i)], ready,
    labels: { app: `app-${service}`, 'pod-template-hash': '7d9f8b', version: 'v1' }, serviceAccount: `app-${service}`, isCaptured: true, isHostNetwork: false,
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }], owner: { type: 'deployment', name: `app-${service}` },
  }
}

const serviceYaml = (size: ScaleSize, i: number): string => `apiVersion: v1
kind: Service
metadata: { name: app-${i}, namespace: ${namespaceOf(size, i)} }
spec:
  clusterIP: ${vipOf(i)}
  selector: { app: app-${i} }
  ports:
    - { name: http, port: 80, targetPort: http }
`

/** Half of them select, one in ten denies; `revision` makes a different policy of the same name. */
const policyYaml = (size: ScaleSize, i: number, revision: number): string => `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: policy-${i}, namespace: ${namespaceOf(size, i)} }
spec:
${i % 2 === 0 ? `  selector: { matchLabels: { app: app-${i} } }\n` : ''}  action: ${i % 10 === 0 ? 'DENY' : 'ALLOW'}
  rules:
    - from:
        - source: { principals: ["cluster.local/ns/*", "other.domain/ns/revision-${revision}/sa/x"] }
      to:
        - operation: { ports: ["8080", "9090"] }
`

/** Files of a namespace's services, and of each policy its own. */
export function writeMesh(size: ScaleSize, directory: string): void {
  mkdirSync(directory, { recursive: true })
  for (let n = 0; n < size.namespaces; n++) {
    const texts = [`apiVersion: v1\nkind: Namespace\nmetadata: { name: ns-${n}, labels: { sidestep.dev/mesh: enabled } }\n`]
    for (let i = n; i < size.services; i += size.namespaces) texts.push(serviceYaml(size, i))
    writeFileSync(join(directory, `ns-${n}.yaml`), texts.join('---\n'))
  }
  for (let i = 0; i < size.policies; i++) writePolicy(size, directory, i, 0)
}

export function writePolicy(size: ScaleSize, directory: string, i: number, revision: number): void {
  writeFileSync(join(directory, `policy-${i}.yaml`), policyYaml(size, i, revision))
}

export const fullScale: ScaleSize = { services: 10_000, podsPerService: 5, policies: 1_000, namespaces: 100, changes: 200, decisions: 20_000 }
export const quickScale: ScaleSize = { services: 200, podsPerService: 3, policies: 20, namespaces: 10, changes: 8, decisions: 500 }
