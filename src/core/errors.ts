// One error class and one table of codes for the whole product. A code decides log level, retry and the hint an
// operator reads, so nobody inspects messages. Rooms throw `MeshError` for surprises and return expected answers.

/** Whose fault it was: the peer that asked, the peer we asked, or ourselves. */
export type ErrorSource = 'downstream' | 'upstream' | 'internal'
/** Whether trying again may help: never, at once, or only where a reused connection was at fault. */
export type Retry = 'never' | 'always' | 'ifReused'
export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

interface CodeEntry {
  readonly level: LogLevel
  readonly retry: Retry
  /** What an operator should look at or do; a full sentence. */
  readonly hint: string
}

const codes = {
  NOT_ROOT: { level: 'error', retry: 'never', hint: 'Run as root: loading eBPF programs and entering network namespaces needs it.' },
  KERNEL_UNSUPPORTED: { level: 'error', retry: 'never', hint: 'Run `sidestep check` to see which kernel feature is missing.' },
  CGROUP2_MISSING: { level: 'error', retry: 'never', hint: 'Mount cgroup2, for example on /sys/fs/cgroup/unified: the redirection hooks attach to its root.' },
  VERIFIER_REJECTED: { level: 'error', retry: 'never', hint: 'The kernel refused an eBPF program; the full verifier log is in the file named in the message.' },
  LAYOUT_MISMATCH: { level: 'error', retry: 'never', hint: 'Pinned maps were made by another version; stop the mesh on this node with `sidestep down` and start again.' },
  SYSCALL_FAILED: { level: 'error', retry: 'never', hint: 'The kernel refused a call; `detail` names it with its errno.' },
  NATIVE_MISSING: { level: 'error', retry: 'never', hint: 'The native addon is not built; run `npm run setup`.' },
  BAD_CONFIG: { level: 'error', retry: 'never', hint: 'Correct the named setting; `--help` lists all settings with their defaults.' },
  BAD_MANIFEST: { level: 'warn', retry: 'never', hint: 'Correct the named file; the last good state stays in force until then.' },
  BAD_MESSAGE: { level: 'warn', retry: 'never', hint: 'A peer sent something that does not parse; check that both sides run compatible versions.' },
  NOT_FOUND: { level: 'info', retry: 'never', hint: 'List what exists with `sidestep status`.' },
  ALREADY_RUNNING: { level: 'warn', retry: 'never', hint: 'A mesh of that name is up; use `sidestep status`, or `sidestep down` first.' },
  COMMAND_FAILED: { level: 'error', retry: 'never', hint: 'A helper program failed; its output is in `detail`.' },
  CONNECT_REFUSED: { level: 'info', retry: 'always', hint: 'Nothing listens on that address and port.' },
  CONNECT_TIMEOUT: { level: 'info', retry: 'always', hint: 'The destination did not answer; is it up, and does a NetworkPolicy block it?' },
  CONNECT_UNREACHABLE: { level: 'info', retry: 'always', hint: 'No route to the destination from the pod that asked.' },
  CONNECT_FAILED: { level: 'info', retry: 'always', hint: 'The connection could not be made; `detail` has the errno.' },
  ORIGINAL_DESTINATION_UNKNOWN: { level: 'warn', retry: 'never', hint: 'A connection reached the capture port without passing the connect hook; it was refused.' },
  TOO_MANY_CONNECTIONS: { level: 'warn', retry: 'always', hint: 'The limit on connections was reached; raise it or find the client that holds them.' },
  AGENT_UNAVAILABLE: { level: 'warn', retry: 'always', hint: 'The node agent does not answer on its socket; pods already captured stay captured.' },
  CONTROL_PLANE_UNAVAILABLE: { level: 'warn', retry: 'always', hint: 'The control plane does not answer; what is known stays in force. Is it running, and do its roots and our token fit?' },
  KUBE_API: { level: 'warn', retry: 'never', hint: 'The Kubernetes API server refused the call; `detail` has its status and reason. Where it is Forbidden, compare the roles in deploy/.' },
  KUBE_UNREACHABLE: { level: 'warn', retry: 'always', hint: 'The Kubernetes API server does not answer; what is known stays in force. Is KUBECONFIG, or the service account, the right one?' },
  CERTIFICATE_UNAVAILABLE: { level: 'warn', retry: 'always', hint: 'No certificate for that identity yet; is the control plane reachable, and does the identity run on this node?' },
  CERTIFICATE_REFUSED: { level: 'warn', retry: 'never', hint: 'The certificate authority does not sign this request; the message says why.' },
  TLS_FAILED: { level: 'info', retry: 'never', hint: 'The TLS handshake failed; compare trust domains, roots and validity with `sidestep certs`.' },
  PEER_IDENTITY_MISMATCH: { level: 'warn', retry: 'never', hint: 'The peer has a valid certificate of another identity than expected; is the workload map stale?' },
  PEER_REVOKED: { level: 'warn', retry: 'never', hint: 'The peer presents a revoked certificate.' },
  TUNNEL_REFUSED: { level: 'info', retry: 'never', hint: 'The peer answered the CONNECT with a refusal; its status says which kind.' },
  TUNNEL_CLOSED: { level: 'info', retry: 'ifReused', hint: 'The tunnel to the peer ended; new connections make a new one.' },
  OVERLOADED: { level: 'warn', retry: 'always', hint: 'A limit that protects this proxy was reached; its name is in `detail`.' },
  POLICY_DENIED: { level: 'info', retry: 'never', hint: 'A policy refuses this connection; `sidestep authz explain` names the rule.' },
  NO_HEALTHY_UPSTREAM: { level: 'info', retry: 'always', hint: 'The service has no endpoint that is ready.' },
  REQUEST_CUT: { level: 'info', retry: 'never', hint: 'The client gave up, or sent its request too slowly or not as HTTP allows; `detail.because` says which.' },
  UPSTREAM_RESET: { level: 'info', retry: 'ifReused', hint: 'The backend ended the exchange before it was complete; look at its own log.' },
  UPSTREAM_TIMEOUT: { level: 'info', retry: 'never', hint: 'The backend did not answer in the time that the route allows.' },
  CLOSED: { level: 'debug', retry: 'never', hint: 'The object was used after it was closed.' },
} as const satisfies Record<string, CodeEntry>

export type ErrorCode = keyof typeof codes

export interface MeshErrorOptions {
  readonly source?: ErrorSource
  readonly retry?: Retry
  readonly detail?: Readonly<Record<string, unknown>>
  readonly cause?: unknown
}

/** The product's only error class. `message` says what happened; `hint` what to do; `detail` has the facts. */
export class MeshError extends Error {
  readonly code: ErrorCode
  readonly source: ErrorSource
  readonly retry: Retry
  readonly detail: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, options: MeshErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'MeshError'
    this.code = code
    this.source = options.source ?? 'internal'
    this.retry = options.retry ?? codes[code].retry
    this.detail = options.detail ?? {}
  }

  get hint(): string {
    return codes[this.code].hint
  }

  get level(): LogLevel {
    return codes[this.code].level
  }
}

/** All codes, for tests and for docs. */
export const errorCodes = Object.keys(codes) as readonly ErrorCode[]

/** Text of anything thrown, without losing a MeshError's hint. */
export function describeError(error: unknown): string {
  if (error instanceof MeshError) return `${error.message} (${error.code}). ${error.hint}`
  return error instanceof Error ? error.message : String(error)
}
