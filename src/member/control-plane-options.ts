// How the control plane and the CA are reached and trusted, and what they are told of this proxy, out of the settings. A file is
// read for each connection; a text in place of a file is taken as it is.
import { readFile } from 'node:fs/promises'
import type { JsonObject } from '@bufbuild/protobuf'
import { tokenFromFile } from '../pki/tokens.ts'
import type { CaClientOptions } from '../pki/ca-client.ts'
import type { XdsClientOptions } from '../xds/client-options.ts'

/** The settings that say it; each program's table has them. */
export interface ControlPlaneSettings {
  readonly xdsAddress: string
  readonly caAddress: string
  readonly serverName: string
  readonly caServerName: string
  readonly token: string
  readonly tokenFile: string
  readonly rootsFile: string
  readonly caRootsFile: string
  readonly xdsHeaders: string
  readonly caHeaders: string
  readonly clusterId: string
  readonly node: string
  readonly podName: string
  readonly podNamespace: string
  readonly instanceIp: string
  readonly nodeMetadata: string
}

/** What kind of proxy this is: the first part of its name. */
export type ProxyKind = 'ztunnel' | 'waypoint'

type Trust = Pick<CaClientOptions, 'token' | 'roots' | 'serverName'>

/** A file's path, PEM, or SYSTEM (or nothing), which is undefined: the roots of the system. */
export function rootsOf(text: string): () => Promise<string | undefined> {
  if (text === '' || text === 'SYSTEM') return () => Promise.resolve(undefined)
  if (text.includes('-----BEGIN ')) return () => Promise.resolve(text)
  return () => readFile(text, 'utf8')
}

function tokenOf({ token, tokenFile }: ControlPlaneSettings): Pick<Trust, 'token'> {
  if (token !== '') return { token: () => Promise.resolve(token) }
  return tokenFile === '' ? {} : { token: tokenFromFile(tokenFile) }
}

function texts(json: string): Record<string, string> {
  return JSON.parse(json) as Record<string, string> // config.ts has looked at it
}

export function xdsOptionsOf(config: ControlPlaneSettings, kind: ProxyKind): Pick<XdsClientOptions, 'address' | 'clusterId' | 'headers' | 'node'> & Trust {
  const { xdsAddress: address, clusterId, rootsFile, serverName, xdsHeaders } = config
  return {
    ...tokenOf(config), roots: rootsOf(rootsFile), ...(serverName !== '' && { serverName }),
    address, clusterId, headers: texts(xdsHeaders), node: nodeOf(config, kind),
  }
}

export function caOptionsOf(config: ControlPlaneSettings): CaClientOptions {
  const { xdsAddress, caAddress, clusterId, rootsFile, caRootsFile, caHeaders } = config
  const serverName = config.caServerName === '' ? config.serverName : config.caServerName
  return {
    ...tokenOf(config), roots: rootsOf(caRootsFile === '' ? rootsFile : caRootsFile), ...(serverName !== '' && { serverName }),
    address: caAddress === '' ? xdsAddress : caAddress, clusterId, headers: texts(caHeaders),
  }
}

/** Who this is: istiod wants four parts with a valid address in the second, and its namespace to be that of the token. */
export function nodeOf({ node, podName, podNamespace, instanceIp, clusterId, nodeMetadata }: ControlPlaneSettings, kind: ProxyKind): XdsClientOptions['node'] {
  const name = podName === '' ? node : podName
  return {
    id: `${kind}~${instanceIp === '' ? '1.1.1.1' : instanceIp}~${name}.${podNamespace}~${podNamespace}.svc.cluster.local`,
    metadata: {
      ...(JSON.parse(nodeMetadata) as JsonObject),
      NAME: name, NAMESPACE: podNamespace, NODE_NAME: node, CLUSTER_ID: clusterId, ...(instanceIp !== '' && { INSTANCE_IPS: instanceIp }),
    },
  }
}
