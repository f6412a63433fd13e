// nginx as the application behind all proxies, and as one of them: TLS with client certificates on both sides, and the routes as
// locations. It speaks HTTP/1.1 to applications whatever its clients speak, gRPC excepted; so does this.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CredentialFiles } from '../rivals/credentials.ts'
import { answerBytes, grpcPath, messageBytes, protocolNames, protocols, tlsPort } from './protocols.ts'
import type { ProtocolName } from './protocols.ts'

const cipher = 'TLS_AES_256_GCM_SHA384'

/** A gRPC message: not compressed, its length, its bytes. */
export function grpcMessage(bytes: number): Buffer {
  const message = Buffer.alloc(5 + bytes, 'x')
  message[0] = 0
  message.writeUInt32BE(bytes, 1)
  return message
}

function write(directory: string, lines: readonly string[]): string {
  const path = join(directory, 'nginx.conf')
  writeFileSync(path, `${lines.join('\n')}\n`)
  return path
}

const common = (directory: string): string[] => [
  'daemon off; master_process off;', `pid ${join(directory, 'pid')}; error_log stderr error;`, 'events { worker_connections 10000; }', 'http {',
  `  client_body_temp_path ${directory}/body; proxy_temp_path ${directory}/proxy; fastcgi_temp_path ${directory}/f; uwsgi_temp_path ${directory}/u; scgi_temp_path ${directory}/s;`,
  '  keepalive_requests 1000000000; keepalive_timeout 3600s; http2_max_concurrent_streams 256; tcp_nodelay on;',
]

/** The command line of the application: as fast as there is one, so that it is not what is measured. */
export function backendCommand(binary: string, directory: string): string[] {
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'unary'), grpcMessage(messageBytes))
  const path = write(directory, [
    ...common(directory), '  access_log off;',
    `  server { listen ${protocols.http1.backendPort} backlog=4096; location / { default_type text/plain; return 200 "${'x'.repeat(answerBytes)}"; } }`,
    `  server { listen ${protocols.http2.backendPort} http2 backlog=4096; location / { default_type text/plain; return 200 "${'x'.repeat(answerBytes)}"; } }`,
    `  server { listen ${protocols.grpc.backendPort} http2 backlog=4096; root ${directory}; open_file_cache max=10;`,
    // A static answer to a POST, and trailers: all that a unary call is on the wire.
    `    location / { rewrite ^ /unary break; default_type application/grpc; error_page 405 =200 /unary; add_trailer grpc-status 0 always; }`,
    '  }', '}',
  ])
  return [binary, '-c', path, '-p', directory]
}

export interface NginxPlan {
  /** Of its own pod, and of the application's, where TLS ends. */
  readonly serving: CredentialFiles
  readonly client: CredentialFiles
  readonly servingName: string
  readonly listen: string
  readonly to: string
  /** Of HTTP/1.1; each location has a context of TLS of its own, so the others have a few. */
  readonly routes: number
  readonly otherRoutes: number
}

/** The command line of the proxy. */
export function proxyCommand(binary: string, directory: string, plan: NginxPlan): string[] {
  mkdirSync(directory, { recursive: true })
  const upstreams = protocolNames.map((name) => `  upstream ${name} { server ${plan.to}:${tlsPort(name)}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 3600s; }`)
  const path = write(directory, [
    ...common(directory),
    '  log_format line escape=json \'{"start_time":"$time_iso8601","method":"$request_method","path":"$request_uri","response_code":$status,"bytes_sent":$body_bytes_sent,"duration":$request_time,"user_agent":"$http_user_agent","authority":"$host","upstream_host":"$upstream_addr"}\';',
    '  access_log /dev/null line buffer=64k;',
    `  ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites ${cipher}; ssl_certificate ${plan.serving.chain}; ssl_certificate_key ${plan.serving.key};`,
    `  ssl_client_certificate ${plan.serving.roots}; ssl_verify_client on; ssl_verify_depth 3; ssl_session_cache off; ssl_session_tickets off;`,
    ...upstreams,
    ...protocolNames.flatMap((name) => [
      `  server { listen ${plan.listen}:${tlsPort(name)} ssl${protocols[name].isHttp2 ? ' http2' : ''} backlog=4096;`,
      ...locations(name, plan), '  }',
    ]),
    '}',
  ])
  return [binary, '-c', path, '-p', directory]
}

function locations(name: ProtocolName, { client, servingName, routes, otherRoutes }: NginxPlan): string[] {
  const kind = name === 'grpc' ? 'grpc' : 'proxy'
  const tls = [
    `${kind}_ssl_certificate ${client.chain}; ${kind}_ssl_certificate_key ${client.key}; ${kind}_ssl_trusted_certificate ${client.roots}; ${kind}_ssl_protocols TLSv1.3;`,
    `${kind}_ssl_verify on; ${kind}_ssl_verify_depth 3; ${kind}_ssl_name ${servingName}; ${kind}_ssl_conf_command Ciphersuites ${cipher};`,
  ]
  const pass = name === 'grpc' ? `grpc_pass grpcs://${name};` : `proxy_pass https://${name}; proxy_http_version 1.1; proxy_set_header Connection "";`
  const matches = name === 'grpc' ? [grpcPath] : Array.from({ length: name === 'http1' ? routes : otherRoutes }, (_, i) => `/route-${i}`)
  return [...tls.map((line) => `    ${line}`), ...matches.map((match) => `    location ${match} { ${pass} }`)]
}
