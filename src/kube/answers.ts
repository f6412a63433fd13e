// What an API server's refusals mean, and how they are asked about. Nothing of a request's headers, and so no token, gets into an
// error.
import { MeshError } from '../core/errors.ts'

/** The longest of a server's own words that an error carries. */
const longestMessage = 2_000

interface StatusLike {
  readonly kind?: unknown
  readonly message?: unknown
  readonly reason?: unknown
  readonly code?: unknown
  readonly details?: unknown
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** KUBE_API of an HTTP answer, from the Status object in its body if there is one. */
export function refusal(method: string, path: string, status: number, body: string): MeshError {
  let parsed: StatusLike = {}
  try {
    const value: unknown = JSON.parse(body)
    if (isRecord(value)) parsed = value
  } catch {
    // Proxies and webhooks answer in words of their own; those are the message then.
  }
  const message = (typeof parsed.message === 'string' ? parsed.message : body.trim()).slice(0, longestMessage)
  const reason = typeof parsed.reason === 'string' ? parsed.reason.slice(0, 100) : ''
  return apiError(method, path, status, reason, message)
}

/** KUBE_API of the Status object that an ERROR event of a watch carries. */
export function refusalOfEvent(path: string, object: unknown): MeshError {
  const status: StatusLike = isRecord(object) ? object : {}
  return apiError(
    'WATCH', path,
    typeof status.code === 'number' ? status.code : 500,
    typeof status.reason === 'string' ? status.reason.slice(0, 100) : '',
    typeof status.message === 'string' ? status.message.slice(0, longestMessage) : '',
  )
}

export function apiError(method: string, path: string, status: number, reason: string, message: string): MeshError {
  const said = [`${method} ${path}`, `${status} ${reason}`.trim(), message].filter((part) => part !== '').join(': ')
  return new MeshError('KUBE_API', said, {
    source: 'upstream',
    retry: status === 429 || status >= 500 ? 'always' : 'never',
    detail: { status, reason, path },
  })
}

export function unreachable(method: string, path: string, because: string, cause?: unknown): MeshError {
  return new MeshError('KUBE_UNREACHABLE', `${method} ${path}: ${because}`, {
    source: 'upstream', detail: { path }, ...(cause !== undefined && { cause }),
  })
}

/** The HTTP status of a KUBE_API error; undefined for everything else. */
export function kubeStatus(error: unknown): number | undefined {
  if (!(error instanceof MeshError) || error.code !== 'KUBE_API') return undefined
  return typeof error.detail['status'] === 'number' ? error.detail['status'] : undefined
}

/** The reason of a KUBE_API error, as in `AlreadyExists`; empty where the server said none, undefined for everything else. */
export function kubeReason(error: unknown): string | undefined {
  if (!(error instanceof MeshError) || error.code !== 'KUBE_API') return undefined
  return typeof error.detail['reason'] === 'string' ? error.detail['reason'] : ''
}

export const isNotFound = (error: unknown): boolean => kubeStatus(error) === 404
export const isForbidden = (error: unknown): boolean => kubeStatus(error) === 403
/** Somebody else changed the object meanwhile, or it exists already (the latter: reason AlreadyExists). */
export const isConflict = (error: unknown): boolean => kubeStatus(error) === 409
/** What a list or watch wants to go on from is too old to be known. */
export const isGone = (error: unknown): boolean => kubeStatus(error) === 410 || kubeReason(error) === 'Expired'
