// Exchanges for tests of this folder: a request of a client in the mesh to a service with a waypoint, whatever a test says beside.
import { Readable } from 'node:stream'
import type { Clock } from '../../core/clock.ts'
import type { Service, Workload } from '../../model/workload.ts'
import { testService, testWorkload } from '../../policy/test-fixtures.ts'
import { HeaderMap } from '../../policy/l7/request-head.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'

export const web: Workload = testWorkload('web-1', { name: 'web-1', workloadName: 'web', canonicalName: 'web', canonicalRevision: 'v1' })
export const db: Workload = testWorkload('db-1', { name: 'db-1', workloadName: 'db', canonicalName: 'db', canonicalRevision: 'v2', serviceAccount: 'db', ips: ['10.0.0.2'] })
export const service: Service = testService('db.shop.svc.cluster.local', { name: 'db' })

export function testContext(parts: Partial<ConnectionContext> = {}): ConnectionContext {
  return {
    caller: { identity: { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'web' }, address: { ip: '10.0.0.1', port: 40_000 }, workload: web },
    target: { t: 'service', service, port: 80 },
    ...parts,
  }
}

export interface RequestParts extends Partial<Request<ConnectionContext>> {
  readonly path?: string
  readonly query?: string
  readonly method?: string
  readonly fields?: readonly (readonly [name: string, value: string])[]
}

export function testRequest({ path = '/', query = '', method = 'GET', fields = [], ...parts }: RequestParts = {}): Request<ConnectionContext> {
  return {
    head: { method, scheme: 'http', authority: 'db.shop', path: { path, matched: path }, query, headers: HeaderMap.of(fields) },
    body: Readable.from([]), hasBody: false, trailers: () => undefined, acceptsTrailers: false, protocol: 'http1', isGrpc: false,
    signal: new AbortController().signal, connection: testContext(), inform: () => {}, ...parts,
  }
}

/** Time that goes only when told. */
export class HandClock implements Clock {
  ms = 0
  nowMs = (): number => Date.UTC(2026, 10, 21, 12) + this.ms
  monotonicMs = (): number => this.ms
  after = (): (() => void) => () => {}
}
