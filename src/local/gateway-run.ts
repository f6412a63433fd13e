// What runs in the pods of a local mesh's Gateways: our proxy with this Node, the environment by which it knows who it is, and the
// few directories that it may see. The objects around it are model/gateway-objects.ts; nothing is started here.
import { randomBytes } from 'node:crypto'
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { GatewayRun } from '../model/gateway-objects.ts'
import type { GatewayManifest } from '../model/manifest.ts'
import { underlayIps } from './addresses.ts'
import type { SandboxOptions } from './sandbox.ts'
import { stateRoot, type StatePaths } from './state.ts'
import { carryingFlags, controlPlaneName, controlPlanePort } from './ztunnel-process.ts'

const defaultCommand = (): string[] => [process.execPath, ...carryingFlags, fileURLToPath(new URL('../bin/waypoint.ts', import.meta.url))]

/** Where its pod sees them; all else below is hidden from pods. */
const inside = { trust: join(stateRoot, 'trust'), token: join(stateRoot, 'token'), shared: join(stateRoot, 'shared'), state: join(stateRoot, 'state') } as const
const sessionKeys = 'session.keys'
const adminSocket = 'admin.sock'

/** For each pod of that Gateway. `command` stands in for our own. */
export function gatewayRun({ metadata: { namespace, name } }: GatewayManifest, command: readonly string[] = defaultCommand()): GatewayRun {
  const field = (fieldPath: string): { valueFrom: { fieldRef: { fieldPath: string } } } => ({ valueFrom: { fieldRef: { fieldPath } } })
  return {
    container: {
      command: [...command],
      // It needs low ports, and a checkout may be in a directory that only its owner can enter.
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'], add: ['NET_BIND_SERVICE', 'DAC_READ_SEARCH'] } },
    },
    // Services it knows by itself. Names outside it asks for as other pods do: this machine's name servers need not be reached from a pod.
    pod: { dnsPolicy: 'ClusterFirst' },
    env: [
      { name: 'SIDESTEP_GATEWAY', value: `${namespace}/${name}` },
      { name: 'SIDESTEP_POD_NAME', ...field('metadata.name') },
      { name: 'SIDESTEP_POD_NAMESPACE', ...field('metadata.namespace') },
      { name: 'SIDESTEP_SERVICE_ACCOUNT', ...field('spec.serviceAccountName') },
      { name: 'SIDESTEP_INSTANCE_IP', ...field('status.podIP') },
      { name: 'SIDESTEP_NODE', ...field('spec.nodeName') },
      { name: 'SIDESTEP_XDS_ADDRESS', value: `${underlayIps.v4}:${controlPlanePort}` },
      { name: 'SIDESTEP_SERVER_NAME', value: controlPlaneName },
      { name: 'SIDESTEP_TOKEN_FILE', value: join(inside.token, 'token') },
      { name: 'SIDESTEP_ROOTS_FILE', value: join(inside.trust, 'roots.pem') },
      { name: 'SIDESTEP_CRL_FILE', value: join(inside.trust, 'crl.pem') },
      { name: 'SIDESTEP_SESSION_KEY_FILE', value: join(inside.shared, sessionKeys) },
      { name: 'SIDESTEP_STATE_DIRECTORY', value: inside.state },
      { name: 'SIDESTEP_ADMIN_SOCKET', value: join(inside.state, adminSocket) },
    ],
  }
}

/** As this machine sees it. */
export function gatewayAdminSocket(paths: StatePaths, uid: string): string {
  return join(paths.podState(uid), adminSocket)
}

interface GatewayPod {
  readonly namespace: string
  readonly name: string
  readonly uid: string
  /** `namespace/name` of the Gateway. */
  readonly gateway: string
}

/** Makes what a Gateway's pod sees of the mesh's directory: the roots, its own token, keys that it shares with the others, and a place of its own. */
export function gatewayDirectories(paths: StatePaths, { namespace, name, uid, gateway }: GatewayPod): NonNullable<SandboxOptions['shows']> {
  const [token, shared, state] = [paths.podToken(namespace, name), paths.gatewayState(gateway), paths.podState(uid)]
  for (const directory of [token, shared, state]) mkdirSync(directory, { recursive: true, mode: 0o700 })
  const keys = join(shared, sessionKeys)
  if (!existsSync(keys)) {
    writeFileSync(`${keys}.new`, `${randomBytes(32).toString('base64url')}\n`, { mode: 0o600 })
    renameSync(`${keys}.new`, keys)
  }
  return [
    { source: paths.trust, target: inside.trust, isWritable: false },
    { source: token, target: inside.token, isWritable: false },
    { source: shared, target: inside.shared, isWritable: false },
    { source: state, target: inside.state, isWritable: true },
  ]
}
