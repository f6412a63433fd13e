// Our processes do everything with the rights and powers that the manifests give them, and have no others: nothing that they did was
// forbidden to them, their accounts may do nothing else, and no container has more than is written down.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { capturedCondition, controlPlaneName, systemNamespace, ztunnelName } from '../../src/model/kubernetes-names.ts'
import { mustRun } from '../../src/local/command.ts'
import { eventually } from './machine.ts'
import type { Stage } from './stage.ts'
import { inMesh, installed, mustSidestep, newNamespace, sidestepProgram } from './stage.ts'
import { deployment, fetchOnce, pod, service, whoServer } from './workloads.ts'

const waitMs = 120_000
let there: Stage
let namespace: string
/** Others may have restarted the API server before, which refuses everybody until it knows the roles again. */
let since = ''

beforeAll(async () => {
  there = await installed()
  since = new Date().toISOString()
  const { kube, appImage: image } = there
  namespace = await newNamespace('rights', inMesh)
  const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 }
  await kube.apply(
    deployment('web', { namespace, image, command: whoServer(8080, 'here'), container: { readinessProbe } }),
    service(namespace, 'web', [{ name: 'http', port: 80, targetPort: 8080 }]),
    pod('client', { namespace, image }),
    // Makes the control plane write statuses, and the other way round: it is refused.
    { apiVersion: 'gateway.networking.k8s.io/v1', kind: 'HTTPRoute', metadata: { name: 'lost', namespace }, spec: { parentRefs: [{ name: 'nobody' }], rules: [{ backendRefs: [{ name: 'web', port: 80 }] }] } },
  )
  await mustSidestep(['waypoint', 'apply', '-n', namespace, '--enroll-namespace', '--wait', '--timeout', '120'])
  await kube.rolledOut(namespace, 'deployment/web')
  await kube.podsHave(namespace, 'app=client', capturedCondition)
  await eventually('the service answers through its waypoint', waitMs, async () => ((await kube.exec(namespace, 'client', fetchOnce('http://web/'))).includes('here') ? true : undefined))
}, 600_000)
afterAll(async () => {
  await there?.kube.delete('namespace', namespace, '--wait=false')
})

test('nothing that they did was forbidden to them', async () => {
  const { kube } = there
  const pods = await kube.pods(systemNamespace)
  expect(pods.length).toBeGreaterThan(2)
  let seen = 0
  for (const { metadata: { name } } of pods) {
    // What is not allowed is tried again and again, so that it is among these, too.
    const lines = (await kube.kubectl(['logs', '-n', systemNamespace, name, '--all-containers', `--since-time=${since}`])).split('\n')
    seen += lines.length
    // Not the hint of other errors of the API, which names the word.
    expect(lines.filter((line) => /403 forbidden|is forbidden|EPERM|EACCES|operation not permitted|permission denied|read-only file system/i.test(line)), name).toEqual([])
  }
  expect(seen).toBeGreaterThan(2 * pods.length)
})

test.each([
  [ztunnelName, 'get', 'secrets', false], [ztunnelName, 'list', 'configmaps', false], [ztunnelName, 'delete', 'pods', false], [ztunnelName, 'create', 'pods', false], [ztunnelName, 'patch', 'pods', false],
  [ztunnelName, 'patch', 'nodes', false], [ztunnelName, 'create', 'serviceaccounts/token', false], [ztunnelName, 'create', 'pods/exec', false], [ztunnelName, 'watch', 'pods', true],
  [controlPlaneName, 'create', 'pods', false], [controlPlaneName, 'create', 'pods/exec', false], [controlPlaneName, 'create', 'serviceaccounts/token', false], [controlPlaneName, 'patch', 'nodes', false],
  [controlPlaneName, 'patch', 'clusterroles', false], [controlPlaneName, 'create', 'clusterrolebindings', false], [controlPlaneName, 'patch', 'daemonsets', false], [controlPlaneName, 'watch', 'pods', true],
])('%s may %s %s: %s', async (account, verb, resource, may) => {
  const [kind, subresource] = resource.split('/')
  const { stdout } = await there.kube.tryKubectl(['auth', 'can-i', verb, kind ?? '', ...(subresource === undefined ? [] : ['--subresource', subresource]), '-A', '--as', `system:serviceaccount:${systemNamespace}:${account}`])
  expect(stdout.trim()).toBe(may ? 'yes' : 'no')
})

test('no container has a power that is not written down', async ({ skip }) => {
  const { cluster } = there
  if (!cluster) return skip('the processes of a cluster of somebody else cannot be looked at from here')
  const seen = new Map<string, Set<string>>()
  for (const node of (await there.kube.list('nodes')).map(({ metadata }) => metadata.name)) {
    const script = 'for p in /proc/[0-9]*; do c=$(tr "\\0" " " <$p/cmdline 2>/dev/null); case "$c" in */app/bin/sidestep-*) echo "${c##*/app/bin/}" $(grep CapEff $p/status) $(grep ^Seccomp: $p/status) $(grep NoNewPrivs $p/status);; esac; done'
    for (const line of (await mustRun(cluster.node(node).machine.entering(['sh', '-c', script]))).trim().split('\n')) {
      // The script finds itself, too.
      const [, program, facts] = /^(sidestep-[a-z]+) (CapEff: .*)$/.exec(line.replaceAll(/\s+/g, ' ').trim()) ?? []
      if (program !== undefined && facts !== undefined) seen.set(program, (seen.get(program) ?? new Set()).add(facts))
    }
  }
  const restricted = 'Seccomp: 2 NoNewPrivs: 1'
  expect(Object.fromEntries([...seen].map(([program, facts]) => [program, [...facts]]))).toEqual({
    'sidestep-agent': [`CapEff: 0000000000280000 ${restricted}`],
    'sidestep-controlplane': [`CapEff: 0000000000000000 ${restricted}`],
    'sidestep-waypoint': [`CapEff: 0000000000000000 ${restricted}`],
    'sidestep-ztunnel': [`CapEff: 0000000000281000 ${restricted}`],
  })
})

test('the command line finds nothing wrong', async () => {
  await eventually('the mesh is as it should be', waitMs, async () => {
    const { ok, features } = JSON.parse(await mustRun([...sidestepProgram, 'check', '--cluster', '-o', 'json', '--kubeconfig', there.kube.kubeconfig])) as { ok: boolean; features: { name: string; status: string }[] }
    return ok && features.find(({ name }) => name === 'pods')?.status === 'pass' ? true : undefined
  })
})
