// What to wake somebody for, as Prometheus' rules. A test compares every metric named here with those that the processes have.
import type { Json } from './common.ts'

export const alertGroups: readonly Json[] = []
