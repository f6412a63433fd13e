// What takes Sidestep off the nodes: a DaemonSet whose pods remove, each on its node, what agents and ztunnels left there, and are ready
// when nothing is left. Only `sidestep uninstall` uses it, after agents and ztunnels are gone.
import { nodePaths, programs } from '../model/kubernetes-names.ts'
import { imageOf, labelsOf, partLabels, variable, type InstallObject, type Json } from './common.ts'
import type { InstallValues } from './values.ts'

export const cleanupName = 'sidestep-cleanup'

const host = '/host'
/** They are mounts of the containers before, and what is mounted cannot be removed there. */
const removeDirectories = `
const { rmSync, rmdirSync } = require('node:fs')
for (const path of ${JSON.stringify([nodePaths.run, nodePaths.state])}) rmSync('${host}' + path, { recursive: true, force: true })
try { rmdirSync('/sys/fs/bpf/sidestep') } catch (error) { if (error.code !== 'ENOENT') throw error }`
const stay = "process.once('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1 << 30)"

export function cleanupObject(values: InstallValues): InstallObject {
  const { image, namespace, node } = values
  const container = (name: string, command: readonly string[], more: Json = {}): Json => ({
    name, image: imageOf(values), imagePullPolicy: image.pullPolicy, command, terminationMessagePolicy: 'FallbackToLogsOnError',
    securityContext: { runAsUser: 0, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } }, ...more,
  })
  const powers = (add: readonly string[]): Json => ({
    securityContext: { runAsUser: 0, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'], add } },
  })
  const onNode = (name: string, path: string): Json => ({ name, hostPath: { path } })
  const mount = (name: string, mountPath: string): Json => ({ name, mountPath })
  return {
    apiVersion: 'apps/v1', kind: 'DaemonSet', metadata: { name: cleanupName, namespace, labels: labelsOf('cleanup') },
    spec: {
      selector: { matchLabels: partLabels(cleanupName) },
      template: {
        metadata: { labels: { ...labelsOf('cleanup'), ...partLabels(cleanupName) } },
        spec: {
          automountServiceAccountToken: false,
          enableServiceLinks: false,
          imagePullSecrets: image.pullSecrets,
          nodeSelector: node.nodeSelector,
          tolerations: node.tolerations,
          priorityClassName: node.priorityClassName,
          terminationGracePeriodSeconds: 5,
          hostPID: true,
          securityContext: { seccompProfile: { type: 'RuntimeDefault' }, appArmorProfile: { type: 'Unconfined' } },
          initContainers: [
            container('agent', [programs.agent, 'cleanup'], {
              ...powers(['NET_ADMIN', 'SYS_ADMIN', 'SYS_PTRACE']),
              env: [variable('SIDESTEP_CRI_SOCKET', `${node.runtimeDirectory}/${node.runtimeSocket}`)],
              volumeMounts: [
                mount('run', nodePaths.run), mount('state', nodePaths.state), mount('bpf', '/sys/fs/bpf'), mount('cni-config', '/etc/cni/net.d'), mount('cni-binaries', '/opt/cni/bin'),
                mount('runtime', node.runtimeDirectory), mount('tmp', '/tmp'),
              ],
            }),
            container('ztunnel', [programs.ztunnel, 'cleanup'], {
              ...powers(['NET_ADMIN', 'SYS_ADMIN']), volumeMounts: [mount('bpf', '/sys/fs/bpf'), mount('cgroup', '/sys/fs/cgroup'), mount('tmp', '/tmp')],
            }),
            container('files', ['node', '-e', removeDirectories], {
              volumeMounts: [mount('host-run', `${host}/run`), mount('host-lib', `${host}/var/lib`), mount('bpf', '/sys/fs/bpf')],
            }),
          ],
          containers: [container('done', ['node', '-e', stay])],
          volumes: [
            onNode('run', nodePaths.run), onNode('state', nodePaths.state), onNode('bpf', '/sys/fs/bpf'), onNode('cgroup', '/sys/fs/cgroup'),
            onNode('cni-config', node.cniConfigDirectory), onNode('cni-binaries', node.cniBinaryDirectory), onNode('runtime', node.runtimeDirectory),
            onNode('host-run', '/run'), onNode('host-lib', '/var/lib'), { name: 'tmp', emptyDir: {} },
          ],
        },
      },
    },
  }
}
