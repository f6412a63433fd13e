// What is measured of requests: three protocols, each on a port of its own at every place it passes.

export const protocolNames = ['http1', 'http2', 'grpc'] as const
export type ProtocolName = (typeof protocolNames)[number]

export interface Protocol {
  readonly title: string
  /** Of the service, of the application. */
  readonly servicePort: number
  readonly backendPort: number
  readonly appProtocol: string
  readonly isHttp2: boolean
}

export const protocols: Readonly<Record<ProtocolName, Protocol>> = {
  http1: { title: 'HTTP/1.1', servicePort: 80, backendPort: 8_080, appProtocol: 'http', isHttp2: false },
  http2: { title: 'HTTP/2', servicePort: 81, backendPort: 8_081, appProtocol: 'kubernetes.io/h2c', isHttp2: true },
  grpc: { title: 'gRPC', servicePort: 82, backendPort: 8_082, appProtocol: 'grpc', isHttp2: true },
}

/** Of one proxy's client end, in the client's pod. */
export function entryPort(proxy: number, protocol: ProtocolName): number {
  return 17_000 + 10 * proxy + protocolNames.indexOf(protocol)
}

export const hbonePort = 15_008
/** Of nginx, which knows no tunnels: TLS on a port for each protocol, at its own and at the application's pod. */
export function tlsPort(protocol: ProtocolName): number {
  return 18_000 + protocolNames.indexOf(protocol)
}
/** Of Envoy in the middle, whose pod has no waypoint beside it; the port is the mesh's. */
export const grpcPath = '/bench.Echo/Unary'
/** Bytes of an answer, and of a gRPC message each way. */
export const answerBytes = 1_024
export const messageBytes = 100
