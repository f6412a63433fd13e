// Envoy three times: at both ends, the same for every proxy that is measured, and as one of those, configured as Istio configures its
// waypoints: CONNECT over mutual TLS ends in a listener inside, requests are routed, and go on through CONNECT over mutual TLS.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatIdentity } from '../../../src/core/identity.ts'
import type { Identity } from '../../../src/core/identity.ts'
import { connectionWindowBytes, streamWindowBytes } from '../../../src/hbone/settings.ts'
import type { CredentialFiles } from '../rivals/credentials.ts'
import { entryPort, hbonePort, protocolNames, protocols, tlsPort } from './protocols.ts'
import type { ProtocolName } from './protocols.ts'

type Json = Readonly<Record<string, unknown>>
const type = (name: string, more: Json = {}): Json => ({ '@type': `type.googleapis.com/envoy.${name}`, ...more })
const addressOf = (ip: string, port: number): Json => ({ socket_address: { address: ip, port_value: port } })

/** The command line, with one thread that carries. */
function command(binary: string, directory: string, config: Json): string[] {
  mkdirSync(directory, { recursive: true })
  const path = join(directory, 'envoy.json')
  writeFileSync(path, JSON.stringify(config))
  return [binary, '-c', path, '--concurrency', '1', '--disable-hot-restart', '-l', 'error']
}

/** `alpn`: undefined says none, as for HTTP/1.1 without HTTP/2. */
function tls(files: CredentialFiles, alpn: string, peers: readonly Identity[]): Json {
  return {
    alpn_protocols: [alpn],
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: files.chain }, private_key: { filename: files.key } }],
    validation_context: {
      trusted_ca: { filename: files.roots },
      ...(peers.length > 0 && { match_typed_subject_alt_names: peers.map((peer) => ({ san_type: 'URI', matcher: { exact: formatIdentity(peer) } })) }),
    },
  }
}
const upstreamTls = (files: CredentialFiles, alpn: string, peers: readonly Identity[]): Json => ({
  transport_socket: { name: 'tls', typed_config: type('extensions.transport_sockets.tls.v3.UpstreamTlsContext', { common_tls_context: tls(files, alpn, peers), max_session_keys: 0 }) },
})
const downstreamTls = (files: CredentialFiles, alpn: string, peers: readonly Identity[]): Json => ({
  transport_socket: {
    name: 'tls',
    typed_config: type('extensions.transport_sockets.tls.v3.DownstreamTlsContext', {
      require_client_certificate: true, common_tls_context: tls(files, alpn, peers), disable_stateless_session_resumption: true,
    }),
  },
})

const http2 = { allow_connect: true, initial_stream_window_size: streamWindowBytes, initial_connection_window_size: connectionWindowBytes, max_concurrent_streams: 1_000 }
const speaksHttp2 = (options: Json = http2): Json => ({
  typed_extension_protocol_options: {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': type('extensions.upstreams.http.v3.HttpProtocolOptions', { explicit_http_config: { http2_protocol_options: options } }),
  },
})

function cluster(name: string, address: Json, ...more: readonly Json[]): Json {
  const high = 1_000_000
  return Object.assign({
    name, type: 'STATIC', connect_timeout: '10s',
    circuit_breakers: { thresholds: [{ max_connections: high, max_requests: high, max_pending_requests: high }] },
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
  }, ...more) as Json
}

const tcpProxy = (to: string, more: Json = {}): Json => ({
  name: 'tcp', typed_config: type('extensions.filters.network.tcp_proxy.v3.TcpProxy', { stat_prefix: to, cluster: to, idle_timeout: '0s', ...more }),
})
const listener = (name: string, ip: string, port: number, filter: Json, transport: Json = {}): Json => ({
  name, address: addressOf(ip, port), tcp_backlog_size: 4_096, filter_chains: [{ filters: [filter], ...transport }],
})
const inside = (name: string, filter: Json): Json => ({ name, internal_listener: {}, filter_chains: [{ filters: [filter] }] })
const router = { name: 'envoy.filters.http.router', typed_config: type('extensions.filters.http.router.v3.Router') }

const connectsTo = (cluster: string): Json => ({
  match: { connect_matcher: {} }, route: { cluster, timeout: '0s', upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }] },
})
const takesConnect = (hosts: readonly Json[]): Json => ({
  name: 'connect',
  typed_config: type('extensions.filters.network.http_connection_manager.v3.HttpConnectionManager', {
    stat_prefix: 'connect', codec_type: 'HTTP2', stream_idle_timeout: '0s', http2_protocol_options: http2, upgrade_configs: [{ upgrade_type: 'CONNECT' }],
    route_config: { virtual_hosts: hosts }, http_filters: [router],
  }),
})

/** A proxy that is measured, as the client's end sees it. */
export interface Entry {
  readonly number: number
  readonly ip: string
  /** How it is reached: tunnels to what the CONNECT names, or TLS on a port for each protocol. */
  readonly by: { readonly t: 'hbone'; readonly authority: (protocol: ProtocolName) => string } | { readonly t: 'tls' }
}

export interface EndFiles {
  readonly client: CredentialFiles
  readonly server: CredentialFiles
}

/** The client's end: a port for each proxy and protocol. */
export function clientEnd(binary: string, directory: string, files: CredentialFiles, entries: readonly Entry[]): string[] {
  const listeners: Json[] = []
  const clusters: Json[] = []
  for (const { number, ip, by } of entries) {
    if (by.t === 'hbone') clusters.push(cluster(`proxy-${number}`, addressOf(ip, hbonePort), speaksHttp2(), upstreamTls(files, 'h2', [])))
    for (const protocol of protocolNames) {
      const name = `proxy-${number}-${protocol}`
      if (by.t === 'tls') clusters.push(cluster(name, addressOf(ip, tlsPort(protocol)), upstreamTls(files, protocols[protocol].isHttp2 ? 'h2' : 'http/1.1', [])))
      listeners.push(listener(name, '127.0.0.1', entryPort(number, protocol), by.t === 'tls'
        ? tcpProxy(name)
        : tcpProxy(`proxy-${number}`, { tunneling_config: { hostname: by.authority(protocol) } })))
    }
  }
  return command(binary, directory, { static_resources: { listeners, clusters } })
}

/** The server's end: HBONE to whichever port the CONNECT names, and TLS for who knows no tunnels. */
export function serverEnd(binary: string, directory: string, files: CredentialFiles, serving: CredentialFiles, ip: string): string[] {
  const application = (protocol: ProtocolName): Json => cluster(`app-${protocol}`, addressOf('127.0.0.1', protocols[protocol].backendPort))
  const hosts = protocolNames.map((name) => ({ name, domains: [`${ip}:${protocols[name].backendPort}`], routes: [connectsTo(`app-${name}`)] }))
  return command(binary, directory, {
    static_resources: {
      listeners: [
        listener('hbone', ip, hbonePort, takesConnect(hosts), downstreamTls(files, 'h2', [])),
        ...protocolNames.map((name) => // nginx asks in HTTP/1.1 for what it was asked in HTTP/2.
          listener(`tls-${name}`, ip, tlsPort(name), tcpProxy(`app-${name === 'http2' ? 'http1' : name}`), downstreamTls(serving, name === 'grpc' ? 'h2' : 'http/1.1', []))),
      ],
      clusters: protocolNames.map(application),
    },
  })
}

export interface EnvoyPlan {
  readonly files: CredentialFiles
  readonly client: Identity
  readonly server: Identity
  readonly ip: string
  readonly to: string
  /** Of HTTP/1.1, and of HTTP/2. */
  readonly routes: number
  readonly otherRoutes: number
}

/** As a waypoint: what a CONNECT names chooses a listener inside, which routes requests into CONNECTs to the endpoint. */
export function waypoint(binary: string, directory: string, { files, client, server, ip, to, routes, otherRoutes }: EnvoyPlan): string[] {
  const internal = (name: string): Json => ({ envoy_internal_address: { server_listener_name: name } })
  const requests = (name: ProtocolName): Json => ({
    name: 'http',
    typed_config: type('extensions.filters.network.http_connection_manager.v3.HttpConnectionManager', {
      stat_prefix: name, codec_type: protocols[name].isHttp2 ? 'HTTP2' : 'HTTP1', stream_idle_timeout: '300s',
      access_log: [{
        name: 'file',
        typed_config: type('extensions.access_loggers.file.v3.FileAccessLog', {
          path: '/dev/null',
          log_format: {
            json_format: {
              start_time: '%START_TIME%', method: '%REQ(:METHOD)%', path: '%REQ(:PATH)%', protocol: '%PROTOCOL%', response_code: '%RESPONSE_CODE%', response_flags: '%RESPONSE_FLAGS%',
              response_code_details: '%RESPONSE_CODE_DETAILS%', bytes_received: '%BYTES_RECEIVED%', bytes_sent: '%BYTES_SENT%', duration: '%DURATION%', user_agent: '%REQ(USER-AGENT)%',
              authority: '%REQ(:AUTHORITY)%', upstream_host: '%UPSTREAM_HOST%', upstream_cluster: '%UPSTREAM_CLUSTER%', route_name: '%ROUTE_NAME%',
            },
          },
        }),
      }],
      route_config: {
        virtual_hosts: [{
          name: 'all', domains: ['*'],
          routes: Array.from({ length: name === 'grpc' ? 1 : name === 'http1' ? routes : otherRoutes }, (_, i) => ({
            name: `route-${i}`, match: name === 'grpc' ? { prefix: '/' } : { path_separated_prefix: `/route-${i}` },
            route: { cluster: `requests-${name}`, timeout: '0s', retry_policy: { retry_on: 'connect-failure,refused-stream', num_retries: 2 } },
          })),
        }],
      },
      http_filters: [{
        name: 'envoy.filters.http.rbac',
        typed_config: type('extensions.filters.http.rbac.v3.RBAC', { rules: { action: 'ALLOW', policies: { methods: {
          permissions: [{ or_rules: { rules: ['GET', 'POST'].map((exact) => ({ header: { name: ':method', string_match: { exact } } })) } }],
          principals: [{ any: true }],
        } } } }),
      }, router],
    }),
  })
  return command(binary, directory, {
    bootstrap_extensions: [{ name: 'envoy.bootstrap.internal_listener', typed_config: type('extensions.bootstrap.internal_listener.v3.InternalListener') }],
    static_resources: {
      listeners: [
        listener('connect_terminate', ip, hbonePort, takesConnect(protocolNames.map((name) => (
          { name, domains: [`${to}:${protocols[name].servicePort}`], routes: [connectsTo(`inside-${name}`)] }))), downstreamTls(files, 'h2', [client])),
        ...protocolNames.map((name) => inside(`inside-${name}`, requests(name))),
        ...protocolNames.map((name) => inside(`originate-${name}`, tcpProxy('endpoint', { tunneling_config: { hostname: `${to}:${protocols[name].backendPort}` } }))),
      ],
      clusters: [
        ...protocolNames.map((name) => cluster(`inside-${name}`, internal(`inside-${name}`))),
        ...protocolNames.map((name) => cluster(`requests-${name}`, internal(`originate-${name}`), protocols[name].isHttp2 ? speaksHttp2({ max_concurrent_streams: 1_000 }) : {})),
        cluster('endpoint', addressOf(to, hbonePort), speaksHttp2(), upstreamTls(files, 'h2', [server])),
      ],
    },
  })
}
