// The image of all programs: the same bytes twice, nothing in it that does not belong there, and every program starts from it under a
// real kubelet with the least that a container can have.
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkout } from '../../deploy/image/contents.ts'
import { mustRun } from '../../src/local/command.ts'
import { programs } from '../../src/model/kubernetes-names.ts'
import { eventually } from './machine.ts'
import { productTags } from './product-image.ts'
import { newNamespace, stage } from './stage.ts'

const timeoutMs = 600_000
let scratch = ''

beforeAll(() => {
  mkdirSync(join(checkout, 'build/image'), { recursive: true })
  scratch = mkdtempSync(join(checkout, 'build/image/.test-'))
})
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

test('the same checkout gives the same bytes, with what runs and nothing else', async () => {
  const files = ['one.tar', 'two.tar'].map((name) => join(scratch, name))
  for (const file of files) await mustRun([process.execPath, join(checkout, 'deploy/image/build.ts'), '--output', file, '--no-code-cache'], { timeoutMs })
  const [one = '', two = ''] = files
  expect(readFileSync(one).equals(readFileSync(two))).toBe(true)
  const layers = (await mustRun(['tar', '-tf', one])).split('\n').filter((name) => name.startsWith('layer-'))
  const listed = await Promise.all(layers.map((layer) => mustRun(['sh', '-c', 'tar -xOf "$0" "$1" | tar -tv --numeric-owner', one, layer], { timeoutMs })))
  const list = listed.flatMap((text) => text.trim().split('\n').map((line) => {
    const [mode = '', owner = '', , , , path = ''] = line.split(/\s+/)
    return { mode, owner, path: path.replace(/^\.\/?/, '/') }
  }))
  const paths = list.map(({ path }) => path)
  expect(paths).toEqual(expect.arrayContaining([
    '/usr/bin/node', '/app/bin/sidestep-ztunnel', '/app/src/bin/ztunnel.ts', '/app/build/Release/sidestep.node', '/app/build/bpf/connect.bpf.o',
    '/app/build/cni/sidestep-cni', '/app/LICENSE', '/etc/ssl/certs/ca-certificates.crt',
  ]))
  expect(paths.filter((path) => /\.test\.ts$|\/(sh|bash|dash|apt|dpkg|npm|vitest)$|\/typescript\//.test(path))).toEqual([])
  expect(list.filter(({ owner }) => owner !== '0/0')).toEqual([])
  expect(list.filter(({ mode, path }) => /[sS]/.test(mode) || (mode[8] === 'w' && mode[0] !== 'l' && path !== '/tmp/'))).toEqual([])
}, timeoutMs)

test('every program starts without rights, without a file system to write to, and as nobody', async () => {
  const { kube, repository } = await stage()
  const namespace = await newNamespace('image')
  const names = Object.values(programs)
  const pods = names.map((name) => ({
    apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace },
    spec: {
      restartPolicy: 'Never', automountServiceAccountToken: false, securityContext: { runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [{
        name: 'program', image: `${repository}:${productTags[0]}`, command: [name, '--help'],
        securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
      }],
    },
  }))
  await kube.apply({ apiVersion: 'v1', kind: 'List', items: pods })
  for (const name of names) {
    await eventually(`${name} to end`, 60_000, async () => (
      (await kube.kubectl(['get', 'pod', '-n', namespace, name, '-o', 'jsonpath={.status.phase}'])) === 'Succeeded' ? true : undefined
    ))
    expect(await kube.kubectl(['logs', '-n', namespace, name])).toMatch(/^Usage: /)
  }
  await kube.kubectl(['delete', 'namespace', namespace, '--wait=false'])
}, timeoutMs)
