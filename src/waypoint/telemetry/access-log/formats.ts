// Formats of the access log, compiled once: a text line, or a JSON object of any shape. What a format says is trusted, it is the
// owner's; what its operators read is not, and is escaped so that nobody writes a line or a field that is not theirs.
import { MeshError } from '../../../core/errors.ts'
import type { Finished } from '../finished.ts'
import { parseFormat } from './operators.ts'
import type { Operator, Scope } from './operators.ts'
import { defaultLongest, jsonValue, textValue } from './values.ts'

/** One line with its newline. */
export type Format = (of: Finished) => string

/** Istio's own text format. */
export const istioTextFormat = '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
  + '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
  + '%RESPONSE_DURATION% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" '
  + '%UPSTREAM_CLUSTER_RAW% - %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%'

/** Istio's JSON fields, and beside them what ours knows more. */
export const defaultJsonTemplate = {
  start_time: '%START_TIME%', method: '%REQ(:METHOD)%', path: '%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):2048%', protocol: '%PROTOCOL%', authority: '%REQ(:AUTHORITY)%',
  response_code: '%RESPONSE_CODE%', grpc_status: '%GRPC_STATUS_NUMBER%', response_flags: '%RESPONSE_FLAGS%', response_code_details: '%RESPONSE_CODE_DETAILS%',
  connection_termination_details: '%CONNECTION_TERMINATION_DETAILS%', upstream_transport_failure_reason: '%UPSTREAM_TRANSPORT_FAILURE_REASON%',
  bytes_received: '%BYTES_RECEIVED%', bytes_sent: '%BYTES_SENT%', duration: '%DURATION%', upstream_service_time: '%RESPONSE_DURATION%',
  attempts: '%UPSTREAM_REQUEST_ATTEMPT_COUNT%', x_forwarded_for: '%REQ(X-FORWARDED-FOR)%', user_agent: '%REQ(USER-AGENT)%', request_id: '%REQ(X-REQUEST-ID)%',
  trace_id: '%TRACE_ID%', upstream_host: '%UPSTREAM_HOST%', upstream_cluster: '%UPSTREAM_CLUSTER_RAW%', route_name: '%ROUTE_NAME%',
  downstream_local_address: '%DOWNSTREAM_LOCAL_ADDRESS%', downstream_remote_address: '%DOWNSTREAM_REMOTE_ADDRESS%', requested_server_name: '%REQUESTED_SERVER_NAME%',
  'src.workload': '%SIDESTEP(src.workload)%', 'src.namespace': '%SIDESTEP(src.namespace)%', 'src.identity': '%SIDESTEP(src.identity)%',
  'dst.service': '%SIDESTEP(dst.service)%', 'dst.workload': '%SIDESTEP(dst.workload)%', 'dst.namespace': '%SIDESTEP(dst.namespace)%',
  audit: '%SIDESTEP(policy.audit)%', dry_run: '%SIDESTEP(policy.dry_run)%',
} as const

/** Throws MeshError BAD_CONFIG. A newline is added; one at the end of the format is not doubled. */
export function compileText(format: string): Format {
  const parts: (string | (Operator & { readonly isQuoted: boolean }))[] = []
  let isQuoted = false
  for (const part of parseFormat(format.replace(/\n$/, ''))) {
    if (typeof part !== 'string') {
      parts.push({ ...part, isQuoted })
      continue
    }
    if (/[\r\n]/.test(part)) throw new MeshError('BAD_CONFIG', 'access log format: a line has no line break within')
    for (const character of part) if (character === '"') isQuoted = !isQuoted
    parts.push(part)
  }
  if (isQuoted) throw new MeshError('BAD_CONFIG', 'access log format: a quotation mark is not closed')
  return (of) => {
    let line = ''
    for (const part of parts) {
      if (typeof part === 'string') {
        line += part
        continue
      }
      const value = part.read(of)
      line += value === undefined ? '-' : typeof value === 'number' || part.isOwn ? value : textValue(value, part.isQuoted, part.longest)
    }
    return `${line}\n`
  }
}

/** Writes a value, or nothing and says false where there is none. */
type Member = (of: Finished) => string | undefined

const deepest = 4

/**
 * `template`: an object of strings with operators, numbers, booleans, null and objects and lists of them. A string that is one operator
 * keeps the operator's type and is left out where it is not known; in longer ones, what is not known is `-`. Throws MeshError BAD_CONFIG.
 */
export function compileJson(template: Readonly<Record<string, unknown>>): Format {
  const write = objectMember(template, '', 1)
  return (of) => `${write(of)}\n`
}

/** Members that depend on the same, written as `"key":value,...`; what does not change is written once. */
interface Group {
  readonly scope: Scope | undefined
  readonly members: (readonly [key: string, write: Member])[]
}

function objectMember(template: Readonly<Record<string, unknown>>, path: string, depth: number): Member {
  const groups: Group[] = []
  for (const [key, value] of Object.entries(template)) {
    const { write, scope } = member(value, path === '' ? key : `${path}.${key}`, depth)
    const last = groups.at(-1)
    const entry = [`${JSON.stringify(key)}:`, write] as const
    if (last && last.scope === scope) last.members.push(entry)
    else groups.push({ scope, members: [entry] })
  }
  const writes = groups.map(writeGroup)
  return (of) => {
    let text = ''
    for (const write of writes) {
      const part = write(of)
      if (part !== '') text += text === '' ? part : `,${part}`
    }
    return `{${text}}`
  }
}

function writeGroup({ scope, members }: Group): (of: Finished) => string {
  const write = (of: Finished): string => {
    let text = ''
    for (const [key, value] of members) {
      const written = value(of)
      if (written !== undefined) text += text === '' ? key + written : `,${key}${written}`
    }
    return text
  }
  switch (scope) {
    case undefined: return write
    case 'connection': return kept((of) => of.context, () => true, write)
    // A change of either is another object.
    case 'destination': return kept(
      ({ destination: { workload, service } }) => workload ?? service, (was, of) => was.service === of.destination.service && was.workload === of.destination.workload, write)
    default: return scope satisfies never
  }
}

function kept(
  keyOf: (of: Finished) => object | undefined, isSame: (was: Finished['destination'], of: Finished) => boolean, write: (of: Finished) => string,
): (of: Finished) => string {
  const known = new WeakMap<object, { readonly of: Finished['destination']; readonly text: string }>()
  return (of) => {
    const key = keyOf(of)
    const found = key && known.get(key)
    if (found && isSame(found.of, of)) return found.text
    const text = write(of)
    if (key) known.set(key, { of: of.destination, text })
    return text
  }
}

interface CompiledMember {
  readonly write: Member
  readonly scope?: Scope | undefined
}

function member(value: unknown, path: string, depth: number): CompiledMember {
  if (depth > deepest) throw new MeshError('BAD_CONFIG', `access log format: ${path} is deeper than ${deepest}`)
  if (typeof value === 'string') return textMember(value)
  if (Array.isArray(value)) {
    const members = value.map((each: unknown, i) => member(each, `${path}[${i}]`, depth + 1))
    return { write: (of) => `[${members.map(({ write }) => write(of) ?? 'null').join(',')}]` }
  }
  if (typeof value === 'object' && value !== null) return { write: objectMember(value as Record<string, unknown>, path, depth + 1) }
  if (value === null || typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))) return { write: () => JSON.stringify(value) }
  throw new MeshError('BAD_CONFIG', `access log format: ${path} is neither text, number, boolean, null, object nor list`)
}

function textMember(format: string): CompiledMember {
  const parts = parseFormat(format)
  const [first] = parts
  if (parts.length === 1 && first !== undefined && typeof first !== 'string') {
    const { read, longest = defaultLongest, scope } = first
    // Many say the same as the line before.
    let last: string | undefined
    let lastText = ''
    const write = (of: Finished): string | undefined => {
      const value = read(of)
      if (value === undefined || typeof value === 'number') return value === undefined ? undefined : String(value)
      if (value !== last) {
        lastText = jsonValue(value, longest)
        last = value
      }
      return lastText
    }
    return { write, scope }
  }
  if (parts.every((part) => typeof part === 'string')) {
    const constant = JSON.stringify(parts.join(''))
    return { write: () => constant }
  }
  const write = (of: Finished): string => {
    let text = ''
    for (const part of parts) {
      if (typeof part === 'string') text += part
      else text += cut(part.read(of), part.longest ?? defaultLongest)
    }
    return jsonValue(text, Infinity)
  }
  return { write }
}

function cut(value: string | number | undefined, longest: number): string {
  return value === undefined || value === '' ? '-' : String(value).slice(0, longest)
}
