// Reads the environment of Istio's ztunnel and says it in our settings, so that this one can be started in its place.
// Pure. Nothing that would change what is carried, or how safely, is left out in silence: it is honoured, noted or refused.
// docs/istio-compat.md lists every variable.
import { MeshError } from '../core/errors.ts'

export type Environment = Readonly<Record<string, string | undefined>>

export interface FromIstio {
  /** Name of a setting in config.ts to its text. */
  readonly settings: Readonly<Record<string, string>>
  /** Name of a setting to the variable that it came from, where there was one. */
  readonly origins: Readonly<Record<string, string>>
  /** What is set and works otherwise here; for the log. */
  readonly notes: readonly string[]
  /** What is set and must not be ignored: the ztunnel does not start. */
  readonly refused: readonly string[]
}

/** Where any of them is set, it is Istio's environment; the others are names that anybody could use. */
const markers = /^(ISTIO_META_|ISTIO_METAJSON_|(XDS|CA)_ADDRESS$|(XDS|CA)_ROOT_CA$|INPOD_|PROXY_MODE$|FAKE_CA$|LOCAL_XDS(_PATH)?$)/

const istiod = 'istiod.istio-system.svc:15012'
const defaultRoots = './var/run/secrets/istio/root-cert.pem'
const defaultToken = './var/run/secrets/tokens/istio-token'
const defaultSocket = '/var/run/ztunnel/ztunnel.sock'

/** Taken over as they are. */
const sameMeaning: Readonly<Record<string, string>> = {
  CLUSTER_ID: 'clusterId', CLUSTER_DOMAIN: 'clusterDomain', NETWORK: 'network', NODE_NAME: 'node', POD_NAME: 'podName',
  POD_NAMESPACE: 'podNamespace', INSTANCE_IP: 'instanceIp', TRUST_DOMAIN: 'trustDomain', CRL_PATH: 'crlFile',
}

/** Set to anything but the value given (undefined: at all), it means nothing here, for the reason given. */
const withoutEffect: Readonly<Record<string, readonly [string | undefined, string]>> = {
  SERVICE_ACCOUNT: [undefined, 'this ztunnel serves no traffic under an identity of its own'],
  XDS_ON_DEMAND: ['false', 'all addresses are held, as without it'],
  ISTIO_META_DNS_PROXY_ADDR: [undefined, 'DNS is served on port 15053 in each pod'],
  IPV6_ENABLED: ['true', 'each pod has the families that its namespace has'],
  UNSTABLE_ENABLE_SOCKS5: ['false', 'there is no SOCKS5 listener'],
  PACKET_MARK: [undefined, 'own sockets are known by socket storage and need no mark'],
  INPOD_PORT_REUSE: ['true', 'listeners always share their port, so that a successor can take over'],
  ENABLE_ORIG_SRC: ['true', 'deliveries always come from the address of the client'],
  TLS12_ENABLED: ['false', 'tunnels are TLS 1.3 only'],
  ENABLE_RESPONSE_BAGGAGE: ['true', 'baggage is always answered'],
  LOCALHOST_APP_TUNNEL: ['true', 'applications behind a PROXY tunnel are dialled on loopback'],
  PREFERED_SERVICE_NAMESPACE: [undefined, 'names are found in the namespace of the caller first, then canonically'],
  AUTHZ_POLICY_INFO_LOGGING: ['false', 'the verdict is in the access log'],
  PROXY_CONFIG: [undefined, 'only its variables are read, not a ProxyConfig'],
  ZTUNNEL_WORKER_THREADS: [undefined, 'there is one thread for connections, and the kernel does the rest'],
  ZTUNNEL_CPU_LIMIT: [undefined, 'there is one thread for connections, and the kernel does the rest'],
  POOL_MAX_STREAMS_PER_CONNECTION: [undefined, 'a connection of the pool is left at the limit that its peer gives'],
  POOL_UNUSED_RELEASE_TIMEOUT: ['5m', 'idle connections of the pool are kept for five minutes'],
  HTTP2_STREAM_WINDOW_SIZE: ['4194304', 'the stream window is 4 MiB'],
  HTTP2_CONNECTION_WINDOW_SIZE: ['16777216', 'the connection window is 16 MiB'],
  HTTP2_FRAME_SIZE: ['1048576', 'the frame size is 1 MiB'],
}

/** Another product would be started than the one that was asked for. */
const refusals: Readonly<Record<string, readonly [(value: string) => boolean, string]>> = {
  FAKE_CA: [isTrue, 'FAKE_CA: certificates are signed by a real CA only; set CA_ADDRESS'],
  LOCAL_XDS: [() => true, 'LOCAL_XDS: workloads come from a control plane; a directory of YAML files makes one (sidestep up)'],
  LOCAL_XDS_PATH: [() => true, 'LOCAL_XDS_PATH: workloads come from a control plane; a directory of YAML files makes one (sidestep up)'],
  PROXY_MODE: [(value) => value !== 'shared', 'PROXY_MODE: only shared is served, one ztunnel for all pods of a node'],
  INPOD_ENABLED: [(value) => !isTrue(value), 'INPOD_ENABLED: pods are always captured inside their namespaces'],
  ENABLE_PROXY: [(value) => !isTrue(value), 'ENABLE_PROXY: a ztunnel that carries nothing is not served'],
  COMPLIANCE_POLICY: [() => true, 'COMPLIANCE_POLICY: the key exchange and cipher suites that it demands cannot be promised'],
}

function isTrue(value: string): boolean {
  return value.trim().toLowerCase() === 'true'
}

export function fromIstio(environment: Environment): FromIstio {
  const set = Object.fromEntries(Object.entries(environment).filter((entry): entry is [string, string] => entry[1] !== undefined))
  if (!Object.keys(set).some((name) => markers.test(name))) return { settings: {}, origins: {}, notes: [], refused: [] }
  const reading = new Reading(set)
  reading.read()
  return reading
}

class Reading implements FromIstio {
  readonly settings: Record<string, string> = {}
  readonly origins: Record<string, string> = {}
  readonly notes: string[] = []
  readonly refused: string[] = []
  readonly #set: Readonly<Record<string, string>>

  constructor(set: Readonly<Record<string, string>>) {
    this.#set = set
  }

  read(): void {
    for (const [variable, setting] of Object.entries(sameMeaning)) this.#take(variable, setting)
    this.#controlPlane()
    this.#roots()
    this.#token()
    this.#headers('XDS_HEADER_', 'xdsHeaders')
    this.#headers('CA_HEADER_', 'caHeaders')
    this.#metadata()
    // Our own agent, where it is named, is the one that counts.
    if (!this.#isOurs('AGENT_SOCKET')) {
      this.#take('INPOD_UDS', 'zdsSocket')
      this.settings['zdsSocket'] ??= defaultSocket
    }
    this.#take('SECRET_TTL', 'certificateTtlSeconds', (value) => String(Math.max(1, Math.round(durationSeconds(value)))))
    this.#take('ISTIO_META_DNS_CAPTURE', 'captureDns', (value) => String(isTrue(value)))
    this.#logs()
    this.#drain()
    this.#rest()
  }

  #value(variable: string): string | undefined {
    const value = this.#set[variable]
    return value === '' ? undefined : value
  }

  /** Whether our own variable says it: what would only be Istio's default beside it is left to us then. */
  #isOurs(name: string): boolean {
    return this.#value(`SIDESTEP_${name}`) !== undefined
  }

  #put(variable: string, setting: string, value: string): void {
    this.settings[setting] = value
    this.origins[setting] = variable
  }

  /** What cannot be understood is refused with its variable's name. */
  #take(variable: string, setting: string, translate: (value: string) => string = (value) => value): void {
    const value = this.#value(variable)
    if (value === undefined) return
    try {
      this.#put(variable, setting, translate(value))
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      this.refused.push(`${variable}: ${error.message}`)
    }
  }

  #controlPlane(): void {
    this.#take('XDS_ADDRESS', 'xdsAddress', endpoint)
    this.#take('CA_ADDRESS', 'caAddress', endpoint)
    this.settings['xdsAddress'] ??= istiod
    if (!this.#isOurs('XDS_ADDRESS')) this.settings['caAddress'] ??= istiod
    // Set to nothing, Istio's ztunnel has no control plane at all; that would carry everything in plain text here.
    if (this.#set['XDS_ADDRESS'] === '' && !this.#isOurs('XDS_ADDRESS')) this.refused.push('XDS_ADDRESS: empty means no control plane; say SIDESTEP_XDS_ADDRESS=none for traffic in plain text')
    this.#take('ALT_XDS_HOSTNAME', 'serverName')
    this.#take('ALT_CA_HOSTNAME', 'caServerName')
    // Otherwise the CA would be expected to have the name of the control plane.
    const ca = this.settings['caAddress']
    if (ca !== undefined && !this.#isOurs('SERVER_NAME') && !this.#isOurs('CA_ADDRESS')) this.settings['caServerName'] ??= hostOf(ca)
  }

  #roots(): void {
    this.#take('XDS_ROOT_CA', 'rootsFile')
    this.#take('CA_ROOT_CA', 'caRootsFile')
    this.settings['rootsFile'] ??= defaultRoots
    if (!this.#isOurs('ROOTS_FILE')) this.settings['caRootsFile'] ??= defaultRoots
  }

  #token(): void {
    const token = this.#value('AUTH_TOKEN')
    // A token has no slash: base64url and dots.
    if (token === undefined) this.settings['tokenFile'] = defaultToken
    else if (token.includes('/')) this.#put('AUTH_TOKEN', 'tokenFile', token)
    else if (!this.#isOurs('TOKEN_FILE')) this.#put('AUTH_TOKEN', 'token', token)
  }

  #headers(prefix: string, setting: string): void {
    const headers: Record<string, string> = {}
    for (const [variable, value] of Object.entries(this.#set)) {
      if (!variable.startsWith(prefix)) continue
      const name = variable.slice(prefix.length).toLowerCase()
      if (!/^[a-z0-9_.-]+$/.test(name) || name.startsWith('grpc-') || name.endsWith('-bin') || !/^[\x20-\x7e]*$/.test(value)) {
        this.refused.push(`${variable}: is no header that gRPC can send`)
      } else if (name === 'authorization' || name === 'clusterid') {
        this.refused.push(`${variable}: ${name} is set from the token and the cluster's name`)
      } else {
        headers[name] = value
      }
    }
    if (Object.keys(headers).length > 0) this.#put(`${prefix}*`, setting, JSON.stringify(headers))
  }

  #metadata(): void {
    const metadata = new Map<string, unknown>()
    for (const [variable, value] of Object.entries(this.#set)) {
      if (variable.startsWith('ISTIO_META_')) metadata.set(variable.slice('ISTIO_META_'.length), value)
    }
    for (const [variable, value] of Object.entries(this.#set)) {
      if (!variable.startsWith('ISTIO_METAJSON_')) continue
      try {
        metadata.set(variable.slice('ISTIO_METAJSON_'.length), JSON.parse(value))
      } catch {
        this.refused.push(`${variable}: is not JSON`)
      }
    }
    metadata.delete('')
    if (metadata.size > 0) this.#put('ISTIO_META_*', 'nodeMetadata', JSON.stringify(Object.fromEntries(metadata)))
  }

  #logs(): void {
    this.settings['accessLog'] = 'text'
    this.#take('LOG_FORMAT', 'accessLog', (value) => (value === 'json' ? 'json' : 'text'))
    const levels: Readonly<Record<string, string>> = { trace: 'debug', debug: 'debug', info: 'info', warn: 'warn', error: 'error', off: 'error' }
    for (const part of (this.#value('RUST_LOG') ?? '').split(',').map((each) => each.trim()).filter((each) => each !== '')) {
      const level = levels[part.toLowerCase()]
      if (level) this.#put('RUST_LOG', 'logLevel', level)
      else if (/^access=(off|error|warn)$/i.test(part)) this.#put('RUST_LOG', 'accessLog', 'off')
      else this.notes.push(`RUST_LOG: ${part} is not honoured; there is one level for all, and the access log can be turned off`)
    }
  }

  /** As Istio's: a deadline, or what the grace period leaves. Without either we end connections at no time of our own. */
  #drain(): void {
    this.#take('TERMINATION_GRACE_PERIOD_SECONDS', 'drainSeconds', (value) => {
      const seconds = wholeNumber(value)
      return String(Math.max(1, seconds - (seconds > 10 ? 5 : 1)))
    })
    this.#take('CONNECTION_TERMINATION_DEADLINE', 'drainSeconds', (value) => String(Math.max(1, Math.round(durationSeconds(value)))))
  }

  #rest(): void {
    for (const [variable, [neutral, because]] of Object.entries(withoutEffect)) {
      const value = this.#value(variable)
      if (value !== undefined && value.toLowerCase() !== neutral) this.notes.push(`${variable} is not honoured: ${because}`)
    }
    for (const [variable, [isWrong, sentence]] of Object.entries(refusals)) {
      const value = this.#value(variable)
      if (value !== undefined && isWrong(value)) this.refused.push(sentence)
    }
  }
}

function endpoint(text: string): string {
  if (/^http:/i.test(text)) throw new MeshError('BAD_CONFIG', 'a control plane is only spoken to over TLS')
  const url = URL.parse(/^https:\/\//i.test(text) ? text : `https://${text}`)
  if (!url || url.hostname === '' || !['', '/'].includes(url.pathname) || url.search !== '' || url.username !== '') {
    throw new MeshError('BAD_CONFIG', 'must be HOST:PORT, or https:// and that')
  }
  return `${url.hostname}:${url.port === '' ? 443 : url.port}`
}

function hostOf(address: string): string {
  return address.slice(0, address.lastIndexOf(':')).replace(/^\[|\]$/g, '')
}

function wholeNumber(text: string): number {
  const value = text.trim()
  if (!/^\d{1,9}$/.test(value)) throw new MeshError('BAD_CONFIG', 'must be a number of seconds')
  return Number(value)
}

const units: Readonly<Record<string, number>> = { ms: 0.001, s: 1, m: 60, h: 3_600, d: 86_400 }

/** `24h`, `1h30m`, `90s`, `500ms`; a number alone means seconds. */
function durationSeconds(text: string): number {
  const value = text.trim()
  if (/^\d{1,9}$/.test(value)) return Number(value)
  if (!/^(\d{1,9}(\.\d{1,6})?(ms|[smhd]))+$/.test(value)) throw new MeshError('BAD_CONFIG', 'must be a time like 24h or 90s')
  return [...value.matchAll(/([\d.]+)(ms|[smhd])/g)].reduce((sum, [, count, unit]) => sum + Number(count) * (units[unit ?? ''] ?? 0), 0)
}
