// Which exchanges have a line in the access log, and in what form. Writes by a function that it is given, which must not wait; what
// that cannot take is dropped and counted there.
import { MeshError } from '../../../core/errors.ts'
import type { Finished } from '../finished.ts'
import { compileJson, compileText, defaultJsonTemplate, istioTextFormat } from './formats.ts'
import type { Format } from './formats.ts'

export interface AccessLogSettings {
  /** `json` and `text` are Istio's formats; `off`; else a text format, or a JSON object whose values are formats. */
  readonly format: string
  /** `errors`: what has a response flag, a status of 400 or more, a gRPC status other than 0, or did not come to its end. */
  readonly filter: 'all' | 'errors' | 'none'
  /** 0 to 1: how many of those without an error get a line; errors always do. */
  readonly sample: number
}

export type AccessLog = (of: Finished) => void

/** Throws MeshError BAD_CONFIG. Null where nothing is logged. */
export function compileFormat(format: string): Format | null {
  switch (format) {
    case 'off': return null
    case 'json': return compileJson(defaultJsonTemplate)
    case 'text': return compileText(istioTextFormat)
    default:
  }
  if (format.trim() === '') throw new MeshError('BAD_CONFIG', 'the format of the access log is empty; `off` turns it off')
  return format.trimStart().startsWith('{') ? compileJson(jsonObject(format)) : compileText(format)
}

function jsonObject(text: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new MeshError('BAD_CONFIG', `the format of the access log begins like JSON and is none: ${cause instanceof Error ? cause.message : ''}`, { cause })
  }
  return value as Readonly<Record<string, unknown>>
}

/** `chance` gives numbers from 0 to below 1. */
export function openAccessLog({ format, filter, sample }: AccessLogSettings, write: (line: string) => void, chance: () => number = Math.random): AccessLog {
  const line = compileFormat(format)
  if (!line || filter === 'none') return () => {}
  return (of) => {
    if (!isError(of) && (filter === 'errors' || (sample < 1 && chance() >= sample))) return
    write(line(of))
  }
}

export function isError({ flags, status, grpcStatus, isCut }: Finished): boolean {
  return flags !== '-' || status >= 400 || isCut || (grpcStatus !== undefined && grpcStatus !== 0)
}
