// How a pod lives and ends: restarts and their pauses, liveness, polite endings, logs, rollouts under load, live changes of
// the directory, and files with mistakes in them.
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { LocalMesh } from '../../src/local/mesh.ts'
import type { PodStatus } from '../../src/model/local-status.ts'
import { deploymentYaml, eventually, podYaml, serviceYaml, whoServer, world } from '../helpers/world.ts'

let mesh: LocalMesh
const directory = mkdtempSync(join(tmpdir(), 'sidestep-life-'))
const manifests = join(directory, 'manifests')

beforeAll(async () => {
  mkdirSync(manifests)
  mesh = await world().pod('client').start({ mesh: false, directory: manifests })
})
afterAll(async () => {
  await mesh?.stop()
  rmSync(directory, { recursive: true })
})

const statusOf = (name: string): PodStatus | undefined => mesh.status().pods.find((pod) => pod.name === name)
const names = (): string[] => mesh.status().pods.map((pod) => pod.name)
const logText = (name: string): string => mesh.log('default', name).read(0).data.toString()

describe('restarts', () => {
  test('a container that ends is started again after growing pauses, and its log goes on', async () => {
    mesh.apply(podYaml('crash', { command: [process.execPath, '-e', 'console.log(Date.now()); process.exit(3)'] }))
    await mesh.waitUntil(() => (statusOf('crash')?.restarts ?? 0) >= 2, 8000)
    const starts = await eventually(() => {
      const times = logText('crash').trim().split('\n').map(Number)
      expect(times.length).toBeGreaterThanOrEqual(3)
      return times
    })
    const [first = 0, second = 0, third = 0] = starts
    expect(second - first).toBeGreaterThanOrEqual(500)
    expect(third - second).toBeGreaterThanOrEqual(1000)
    await mesh.waitUntil(() => statusOf('crash')?.reason.startsWith('CrashLoopBackOff') ?? false, 3000)
    expect(statusOf('crash')).toMatchObject({ phase: 'Running', ready: false, reason: 'CrashLoopBackOff: exited with 3' })
    mesh.unapply('Pod default/crash')
  })

  test('a failing liveness probe restarts the container', async () => {
    const marker = join(directory, 'sick')
    mesh.apply(podYaml('sickly', {
      command: ['sh', '-c', `rm -f ${marker}; echo born; sleep infinity`],
      container: { livenessProbe: { exec: { command: ['test', '!', '-e', marker] }, periodSeconds: 1, failureThreshold: 1 } },
    }))
    await mesh.waitUntil(() => statusOf('sickly')?.ready ?? false, 3000)
    await eventually(() => expect(logText('sickly')).toBe('born\n'))
    writeFileSync(marker, '')
    await mesh.waitUntil(() => statusOf('sickly')?.restarts === 1 && (statusOf('sickly')?.ready ?? false), 8000)
    await eventually(() => expect(logText('sickly')).toBe('born\nborn\n'))
    mesh.unapply('Pod default/sickly')
  })

  test.each([
    ['Never', 'exit 1', 'Failed'],
    ['OnFailure', 'exit 0', 'Succeeded'],
  ])('%s is kept to after %s', async (restartPolicy, script, phase) => {
    mesh.apply(podYaml('once', { command: ['sh', '-c', script], spec: { restartPolicy } }))
    await mesh.waitUntil(() => statusOf('once')?.phase === phase, 5000)
    expect(statusOf('once')).toMatchObject({ restarts: 0 })
    mesh.unapply('Pod default/once')
    await mesh.waitUntil(() => !names().includes('once'), 5000)
  })

  test('a pod whose namespaces were killed is made anew', async () => {
    mesh.apply(podYaml('victim', {}))
    await mesh.waitUntil(() => statusOf('victim')?.ready ?? false, 3000)
    const { uid } = mesh.pod('default', 'victim').options
    process.kill(mesh.pod('default', 'victim').sandbox?.pid ?? 0, 'SIGKILL')
    await mesh.waitUntil(() => {
      const again = mesh.status().pods.find((pod) => pod.name === 'victim')
      return (again?.ready ?? false) && mesh.pod('default', 'victim').options.uid !== uid
    }, 8000)
    mesh.unapply('Pod default/victim')
  })
})

test('a pod ends politely: preStop hook, SIGTERM, and SIGKILL when its time is over', async () => {
  const polite = join(directory, 'polite')
  mesh.apply([
    podYaml('polite', {
      command: ['sh', '-c', `trap 'echo term >>${polite}; exit 0' TERM; while :; do sleep 0.05; done`],
      container: { lifecycle: { preStop: { exec: { command: ['sh', '-c', `echo hook >>${polite}`] } } } }, spec: { terminationGracePeriodSeconds: 5 },
    }),
    podYaml('stubborn', { command: ['sh', '-c', `trap '' TERM; while :; do sleep 0.05; done`], spec: { terminationGracePeriodSeconds: 1 } }),
  ].join('---\n'))
  await mesh.waitUntil(() => ['polite', 'stubborn'].every((name) => statusOf(name)?.ready), 3000)
  await sleep(200)
  const before = performance.now()
  mesh.unapply('Pod default/polite')
  mesh.unapply('Pod default/stubborn')
  await mesh.waitUntil(() => !names().includes('polite'), 3000)
  expect((await mesh.exec('default', 'client', undefined, ['cat', polite])).stdout).toBe('hook\nterm\n')
  await mesh.waitUntil(() => !names().includes('stubborn'), 4000)
  expect(performance.now() - before).toBeGreaterThan(1000)
})

describe('a rollout', () => {
  test('replaces all pods one by one while no request fails', async () => {
    const versions = (text: string): string => deploymentYaml('web', 2, {
      command: whoServer(), container: { env: [{ name: 'VERSION', value: text }], readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 },
        lifecycle: { preStop: { exec: { command: ['sleep', '0.5'] } } } },
      spec: { terminationGracePeriodSeconds: 3 },
    })
    mesh.apply(`${versions('1')}---\n${serviceYaml('web', [{ port: 80, targetPort: 8080 }])}`)
    await mesh.waitReady(8000)
    const old = names().filter((name) => name.startsWith('web-'))
    expect(old).toHaveLength(2)
    expect(old[0]).toMatch(/^web-[0-9a-f]{10}-[a-z0-9]{5}$/)
    const ip = mesh.status().services.find((service) => service.name === 'web')?.ips[0] ?? ''
    const load = mesh.exec('default', 'client', undefined, ['sh', '-c', `end=$(($(date +%s) + 6)); ok=0; bad=0
      while [ $(date +%s) -lt $end ]; do if curl -sS --max-time 2 http://${ip}/slow >/dev/null; then ok=$((ok+1)); else bad=$((bad+1)); fi; done
      echo $ok $bad`])
    await sleep(300)
    let most = 0
    mesh.apply(versions('2'))
    await mesh.waitUntil(() => {
      const web = mesh.status().pods.filter((pod) => pod.name.startsWith('web-') && pod.phase !== 'Terminating')
      most = Math.max(most, web.length)
      expect(web.filter((pod) => pod.ready).length).toBeGreaterThanOrEqual(2)
      return web.length === 2 && web.every((pod) => pod.ready && !old.includes(pod.name))
    }, 10_000)
    expect(most).toBe(3)
    const { stdout } = await load
    const [ok = 0, bad = 0] = stdout.trim().split(' ').map(Number)
    expect(bad).toBe(0)
    expect(ok).toBeGreaterThan(8)
    mesh.unapply('Deployment default/web')
    await mesh.waitUntil(() => !names().some((name) => name.startsWith('web-')), 8000)
  })
})

describe('the directory', () => {
  beforeEach(() => writeFileSync(join(manifests, 'a.yaml'), podYaml('one', {})))
  afterEach(async () => {
    for (const name of ['a.yaml', 'b.yaml']) rmSync(join(manifests, name), { force: true })
    await mesh.waitUntil(() => !names().some((name) => ['one', 'two', 'lost'].includes(name)), 8000)
  })

  test('changes apply live: a new file, a change, a removal', async () => {
    await mesh.waitUntil(() => statusOf('one')?.ready ?? false, 5000)
    writeFileSync(join(manifests, 'b.yaml'), podYaml('two', { node: 'node-b' }))
    await mesh.waitUntil(() => statusOf('two')?.node === 'node-b' && (statusOf('two')?.ready ?? false), 5000)
    // As editors do it: a new file in the old one's place.
    writeFileSync(join(manifests, '.b.swp'), podYaml('two', { node: 'node-a' }))
    renameSync(join(manifests, '.b.swp'), join(manifests, 'b.yaml'))
    await mesh.waitUntil(() => statusOf('two')?.node === 'node-a' && (statusOf('two')?.ready ?? false), 5000)
    rmSync(join(manifests, 'b.yaml'))
    await mesh.waitUntil(() => statusOf('two') === undefined, 5000)
    expect(statusOf('one')).toMatchObject({ ready: true, restarts: 0 })
  })

  test('a file with a mistake is reported with its line, and its last good state keeps running', async () => {
    await mesh.waitUntil(() => statusOf('one')?.ready ?? false, 5000)
    const { uid } = mesh.pod('default', 'one').options
    writeFileSync(join(manifests, 'a.yaml'), `${podYaml('one', {})}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: Not_A_Name\nspec: {}\n`)
    await mesh.waitUntil(() => mesh.status().problems.length > 0, 5000)
    expect(mesh.status().problems).toContainEqual({ file: 'a.yaml', line: 18, reason: expect.stringContaining('metadata.name') })
    writeFileSync(join(manifests, 'a.yaml'), 'kind: [')
    await mesh.waitUntil(() => mesh.status().problems[0]?.line === 1, 5000)
    expect(mesh.pod('default', 'one').options.uid).toBe(uid)
    writeFileSync(join(manifests, 'a.yaml'), podYaml('one', {}))
    await mesh.waitUntil(() => mesh.status().problems.length === 0, 5000)
    expect(mesh.pod('default', 'one').options.uid).toBe(uid)
  })

  test('of two objects with one name the later is reported; a pod that fits nowhere says so', async () => {
    writeFileSync(join(manifests, 'b.yaml'), `${podYaml('one', { node: 'node-b' })}---\n${podYaml('lost', { node: 'node-x' })}`)
    await mesh.waitUntil(() => mesh.status().problems.length > 0 && statusOf('lost') !== undefined, 5000)
    expect(mesh.status().problems).toEqual([{ file: 'b.yaml', line: 1, reason: 'Pod default/one is already defined in a.yaml:1; that one counts' }])
    expect(statusOf('lost')).toMatchObject({ phase: 'Pending', node: '', reason: expect.stringContaining('there is no node node-x') })
  })
})
