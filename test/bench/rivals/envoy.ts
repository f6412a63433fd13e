// Envoy as both ends of HBONE: TCP in, CONNECT over HTTP/2 over mutual TLS 1.3 between, TCP out. Windows as ours, so that
// what differs is the program.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatAddr } from '../../../src/core/address.ts'
import type { SocketAddr } from '../../../src/core/address.ts'
import { formatIdentity } from '../../../src/core/identity.ts'
import type { Identity } from '../../../src/core/identity.ts'
import { connectionWindowBytes, streamWindowBytes } from '../../../src/hbone/settings.ts'
import { identities } from './credentials.ts'
import type { CredentialFiles } from './credentials.ts'
import type { EndPlan } from './end.ts'

const type = (name: string): string => `type.googleapis.com/envoy.${name}`
const addressOf = ({ ip, port }: SocketAddr): object => ({ socket_address: { address: ip, port_value: port } })

/** The command line; its configuration is written below `directory`. `workers`: threads that carry. */
export function envoyCommand(binary: string, directory: string, plan: EndPlan, workers = 1): string[] {
  mkdirSync(directory, { recursive: true })
  const path = join(directory, 'envoy.json')
  writeFileSync(path, JSON.stringify(plan.role === 'client' ? clientConfig(plan) : serverConfig(plan), undefined, 2))
  // Without hot restart, which would share memory between the Envoys of one machine.
  return [binary, '-c', path, '--concurrency', String(workers), '--disable-hot-restart', '-l', 'error']
}

function tlsContext(files: CredentialFiles, peer: Identity): object {
  return {
    alpn_protocols: ['h2'],
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: files.chain }, private_key: { filename: files.key } }],
    validation_context: {
      trusted_ca: { filename: files.roots },
      match_typed_subject_alt_names: [{ san_type: 'URI', matcher: { exact: formatIdentity(peer) } }],
    },
  }
}

const http2 = {
  allow_connect: true,
  initial_stream_window_size: streamWindowBytes,
  initial_connection_window_size: connectionWindowBytes,
}

function cluster(name: string, to: SocketAddr, more: object = {}): object {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '10s',
    // Its default of 1,024 connections and requests is a limit of policy, not of speed.
    circuit_breakers: { thresholds: [{ max_connections: 100_000, max_requests: 100_000, max_pending_requests: 100_000 }] },
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address: addressOf(to) } }] }] },
    ...more,
  }
}

function config(listen: SocketAddr, filter: object, clusters: readonly object[], transport: object = {}): object {
  return {
    static_resources: {
      listeners: [{
        name: 'in', address: addressOf(listen), tcp_backlog_size: 65_535,
        filter_chains: [{ filters: [filter], ...transport }],
      }],
      clusters,
    },
  }
}

function clientConfig({ files, listen, to, target }: EndPlan): object {
  const filter = {
    name: 'tcp',
    typed_config: {
      '@type': type('extensions.filters.network.tcp_proxy.v3.TcpProxy'),
      stat_prefix: 'tunnel', cluster: 'peer', tunneling_config: { hostname: formatAddr(target) }, idle_timeout: '0s',
    },
  }
  const peer = cluster('peer', to, {
    typed_extension_protocol_options: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': type('extensions.upstreams.http.v3.HttpProtocolOptions'),
        explicit_http_config: { http2_protocol_options: http2 },
      },
    },
    transport_socket: {
      name: 'tls',
      typed_config: {
        '@type': type('extensions.transport_sockets.tls.v3.UpstreamTlsContext'),
        common_tls_context: tlsContext(files, identities.server),
        max_session_keys: 0,
      },
    },
  })
  return config(listen, filter, [peer])
}

function serverConfig({ files, listen, to }: EndPlan): object {
  const filter = {
    name: 'http',
    typed_config: {
      '@type': type('extensions.filters.network.http_connection_manager.v3.HttpConnectionManager'),
      stat_prefix: 'tunnel', codec_type: 'HTTP2', stream_idle_timeout: '0s',
      http2_protocol_options: { ...http2, max_concurrent_streams: 200 },
      // What Envoy calls upgrading: the payload of a CONNECT goes to the cluster as plain TCP.
      upgrade_configs: [{ upgrade_type: 'CONNECT' }],
      route_config: {
        virtual_hosts: [{
          name: 'all', domains: ['*'],
          routes: [{
            match: { connect_matcher: {} },
            route: { cluster: 'application', timeout: '0s', upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }] },
          }],
        }],
      },
      http_filters: [{ name: 'router', typed_config: { '@type': type('extensions.filters.http.router.v3.Router') } }],
    },
  }
  const transport = {
    transport_socket: {
      name: 'tls',
      typed_config: {
        '@type': type('extensions.transport_sockets.tls.v3.DownstreamTlsContext'),
        require_client_certificate: true,
        common_tls_context: tlsContext(files, identities.client),
        disable_stateless_session_resumption: true,
      },
    },
  }
  return config(listen, filter, [cluster('application', to)], transport)
}
