// Settings of a waypoint's log and traces; the program spreads them into its table.
import { z } from 'zod'
import { describeError } from '../../core/errors.ts'
import { compileFormat } from './access-log/access-log.ts'

const ratio = z.coerce.number().min(0).max(1)

const format = z.string().max(65_536).superRefine((text, context) => {
  try {
    compileFormat(text)
  } catch (error) {
    context.addIssue({ code: 'custom', message: describeError(error) })
  }
})

export const telemetrySettings = {
  accessLog: format.default('json').describe('A line for each request: json, text, off, a format of Envoy\'s operators, or a JSON object of such formats.'),
  accessLogFilter: z.enum(['all', 'errors', 'none']).default('all').describe('Which requests get a line: all, errors or none.'),
  accessLogSample: ratio.default(1).describe('How many of the requests without an error get a line, 0 to 1.'),
  traceRatio: ratio.default(0.1).describe('How many of the traces that begin here are recorded, 0 to 1; those of others go on as they decided.'),
} as const
