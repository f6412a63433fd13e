import { assert, array, constantFrom, property, string, uuid } from 'fast-check'
import { describe, expect, test } from 'vitest'
import { podOfCgroup } from './cgroup-path.ts'

const uid = '1b2c3d4e-aaaa-4bbb-8ccc-0123456789ab'
const other = 'ffffffff-aaaa-4bbb-8ccc-0123456789ab'
const under = (text: string): string => text.replaceAll('-', '_')
const container = 'a'.repeat(64)

test.each([
  ['v2, systemd, containerd', `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${under(uid)}.slice/cri-containerd-${container}.scope\n`],
  ['v2, systemd, guaranteed, CRI-O', `0::/kubepods.slice/kubepods-pod${under(uid)}.slice/crio-${container}.scope\n`],
  ['v2, systemd, a kubelet with a root of its own', `0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod${under(uid)}.slice/cri-containerd-${container}.scope\n`],
  ['v2, cgroupfs', `0::/kubepods/besteffort/pod${uid}/${container}\n`],
  ['v2, from within a cgroup namespace', `0::/../../kubepods-burstable-pod${under(uid)}.slice/cri-containerd-${container}.scope\n`],
  ['v2, cgroupfs, from within a cgroup namespace', `0::/../../pod${uid}/${container}\n`],
  ['v1, cgroupfs', `12:cpu,cpuacct:/kubepods/burstable/pod${uid}/${container}\n1:name=systemd:/kubepods/burstable/pod${uid}/${container}\n0::/\n`],
  ['v1 below a folder, cpuset not used', `9:memory:/test/node-1/kubepods/pod${uid}/${container}\n8:cpuset:/\n0::/test/node-1\n`],
])('%s', (_what, text) => {
  expect(podOfCgroup(text)).toBe(uid)
})

test('a pod of a file has a hash for a uid', () => {
  const hash = '0123456789abcdef0123456789abcdef'
  expect(podOfCgroup(`0::/kubepods/burstable/pod${hash}/x\n`)).toBe(hash)
  expect(podOfCgroup(`0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${hash}.slice/x.scope\n`)).toBe(hash)
})

describe('what a pod does within its cgroup gives it nobody else\'s name', () => {
  test.each([
    ['a cgroup named as another pod', `0::/kubepods/burstable/pod${uid}/${container}/pod${other}/${container}`],
    ['a whole tree as the kubelet makes it', `0::/kubepods.slice/kubepods-pod${under(uid)}.slice/cri-x.scope/kubepods.slice/kubepods-pod${under(other)}.slice/y`],
    ['cgroupfs below systemd', `0::/kubepods.slice/kubepods-pod${under(uid)}.slice/cri-x.scope/pod${other}`],
    ['the same from within a namespace', `0::/../../pod${uid}/${container}/kubepods/pod${other}`],
  ])('%s', (_what, text) => {
    expect(podOfCgroup(text)).toBe(uid)
  })

  test('two hierarchies that disagree say nothing', () => {
    expect(podOfCgroup(`2:memory:/kubepods/pod${uid}/x\n1:cpu:/kubepods/pod${other}/x\n`)).toBeUndefined()
  })

  const name = constantFrom(`pod${other}`, `kubepods-pod${under(other)}.slice`, '..', '.', '', 'kubepods', ':', '\\n', `0::/pod${other}`)
  test('whatever it is called', () => {
    assert(property(uuid(), array(name), (mine, names) => {
      expect(podOfCgroup(`0::/kubepods/pod${mine}/c/${names.join('/')}`)).toBe(mine)
      expect(podOfCgroup(`0::/kubepods.slice/kubepods-pod${under(mine)}.slice/c/${names.join('/')}`)).toBe(mine)
    }))
  })
})

test.each([
  '', '0::/', '0::/system.slice/sshd.service', '0::/user.slice/pod', `0::pod${uid}`, `pod${uid}`, `0::/xpod${uid}`, `0::/pod${uid}x`, `0::/pod${uid.toUpperCase()}`,
  `0::/kubepods-pod${uid}.slice`, `0::/pod${under(uid)}`, '0::/podabc', `0::/${'a/'.repeat(3000)}pod${uid}`,
])('no pod: %s', (text) => {
  expect(podOfCgroup(text)).toBeUndefined()
})

test('any text is an answer or none', () => {
  assert(property(string({ unit: 'binary', maxLength: 300 }), (text) => {
    expect(['string', 'undefined']).toContain(typeof podOfCgroup(text))
  }))
})
