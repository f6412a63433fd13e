// Which version of HTTP a backend is asked in: what its port says, else what the policy or the request needs. Pure.
import type { TrafficPolicy } from '../../model/route.ts'
import type { AppProtocol } from '../../model/workload.ts'
import type { ConnectionContext } from '../context.ts'
import type { Request } from '../http/message.ts'
import type { Protocol } from './endpoint.ts'

type Asked = Pick<Request<ConnectionContext>, 'isGrpc' | 'protocol' | 'upgrade' | 'connection'>

type Wish = Pick<TrafficPolicy, 'isHttp2Wanted'>

export function protocolFor(request: Asked, appProtocol: AppProtocol, { isHttp2Wanted }: Wish): Protocol {
  if (appProtocol === 'http2' || appProtocol === 'grpc') return 'http2'
  // WebSocket over HTTP/2 needs a server that says so; over HTTP/1.1 all can.
  if (request.upgrade !== undefined) return 'http1'
  if (isHttp2Wanted === true) return 'http2'
  if (appProtocol === 'http11') return 'http1'
  if (request.isGrpc) return 'http2'
  // In the mesh a client that speaks HTTP/2 without being asked knows that the server does; a browser at a gateway does not.
  return request.protocol === 'http2' && request.connection.target.t !== 'listener' ? 'http2' : 'http1'
}
