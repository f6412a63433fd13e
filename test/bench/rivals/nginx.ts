// nginx as a pair of TCP proxies with mutual TLS between them: no HTTP/2, a TLS handshake for each connection. One process
// at each end, as each ztunnel and each Envoy has one thread that carries.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { formatAddr } from '../../../src/core/address.ts'
import type { NginxFiles } from './fetch.ts'
import { servingName } from './credentials.ts'
import type { EndPlan } from './end.ts'

/** AES-256-GCM, which our own tunnels prefer and Envoy is given too. */
const cipher = 'TLS_AES_256_GCM_SHA384'

/** The command line; its configuration is written below `directory`. */
export function nginxCommand({ binary, streamModule }: NginxFiles, directory: string, plan: EndPlan): string[] {
  mkdirSync(directory, { recursive: true })
  const { files, listen, to } = plan
  const tls = plan.role === 'client'
    ? [
      'proxy_ssl on', 'proxy_ssl_protocols TLSv1.3', `proxy_ssl_conf_command Ciphersuites ${cipher}`,
      `proxy_ssl_certificate ${files.chain}`, `proxy_ssl_certificate_key ${files.key}`, `proxy_ssl_trusted_certificate ${files.roots}`,
      'proxy_ssl_verify on', 'proxy_ssl_verify_depth 3', 'proxy_ssl_session_reuse off', `proxy_ssl_name ${servingName}`,
    ]
    : [
      'ssl_protocols TLSv1.3', `ssl_conf_command Ciphersuites ${cipher}`, `ssl_certificate ${files.chain}`, `ssl_certificate_key ${files.key}`,
      `ssl_client_certificate ${files.roots}`, 'ssl_verify_client on', 'ssl_verify_depth 3', 'ssl_session_cache off', 'ssl_session_tickets off',
    ]
  const lines = [
    `load_module ${streamModule};`,
    // Without a master, so that who kills what we started leaves no worker behind.
    'daemon off; master_process off;',
    `pid ${join(directory, 'pid')}; error_log stderr error;`,
    'events { worker_connections 40000; }',
    'stream {',
    '  access_log off; tcp_nodelay on; proxy_timeout 3600s; proxy_buffer_size 64k; proxy_half_close on;',
    '  server {',
    `    listen ${formatAddr(listen)} backlog=65535${plan.role === 'server' ? ' ssl' : ''};`,
    `    proxy_pass ${formatAddr(to)};`,
    ...tls.map((line) => `    ${line};`),
    '  }',
    '}',
  ]
  const path = join(directory, 'nginx.conf')
  writeFileSync(path, `${lines.join('\n')}\n`)
  return [binary, '-c', path, '-p', directory]
}
