// Loads the addon, once per thread, and makes its failures MeshErrors. Nothing else in the product imports it.
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { getSystemErrorName } from 'node:util'
import { MeshError } from '../core/errors.ts'
import type { ErrorCode } from '../core/errors.ts'
import type { Native } from '../../native/native.d.ts'

export type { Native, NativeSocketOptions, OwnedFd, UnixSocket } from '../../native/native.d.ts'

/** Where `npm run build` puts its results. */
export const buildDirectory = join(import.meta.dirname, '../../build')

const connectCodes: Readonly<Record<string, ErrorCode>> = {
  ECONNREFUSED: 'CONNECT_REFUSED',
  ETIMEDOUT: 'CONNECT_TIMEOUT',
  EHOSTUNREACH: 'CONNECT_UNREACHABLE',
  ENETUNREACH: 'CONNECT_UNREACHABLE',
}

function errorName(errno: number): string {
  try {
    return getSystemErrorName(-errno)
  } catch {
    return `errno ${errno}` // a number that libuv has no name for
  }
}

/** What the addon throws: connects have codes of their own, the rest is a failed system call. */
export function nativeError(call: string, errno: number, detail: string): MeshError {
  const name = errorName(errno)
  const facts = { call, errno: name, ...(detail === '' ? {} : { detail }) }
  const message = `${call}: ${name}${detail === '' ? '' : ` (${detail})`}`
  if (call === 'connect') return new MeshError(connectCodes[name] ?? 'CONNECT_FAILED', message, { source: 'upstream', detail: facts })
  if (call === 'bpf_object__load') return new MeshError('VERIFIER_REJECTED', message, { detail: facts })
  return new MeshError('SYSCALL_FAILED', message, { detail: facts })
}

let loaded: Native | undefined

/** The addon. Throws NATIVE_MISSING where it is not built. `SIDESTEP_NATIVE` names another build, for sanitizers. */
export function native(): Native {
  if (loaded) return loaded
  const path = process.env['SIDESTEP_NATIVE'] ?? join(buildDirectory, 'Release/sidestep.node')
  try {
    const addon = createRequire(import.meta.url)(path) as Native
    addon.initialise(nativeError)
    loaded = addon
    return addon
  } catch (cause) {
    throw new MeshError('NATIVE_MISSING', `cannot load the native addon ${path}`, { cause })
  }
}
