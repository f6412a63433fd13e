// Which ports of this machine's loopback address lead to an ingress of a local mesh: as an annotation of its Gateway or an option
// of `sidestep up` writes it. Pure; what a stranger writes is bounded and refused with a sentence.

export interface PublishedPort {
  /** On 127.0.0.1 of this machine. */
  readonly hostPort: number
  /** Of the ingress's Service. */
  readonly port: number
}

export interface PublishOption {
  readonly namespace: string
  readonly name: string
  readonly hostPort: number
  /** Absent for an ingress with one port. */
  readonly port?: number
}

export const maxPublishedPorts = 16

/** The value of `sidestep.dev/publish`: `HOSTPORT=PORT, ...`. Ports in the order of the text, or what is wrong with it. */
export function parsePublishAnnotation(text: string): { readonly ports: readonly PublishedPort[] } | { readonly problem: string } {
  const ports: PublishedPort[] = []
  for (const part of text.split(',').map((each) => each.trim()).filter((each) => each !== '')) {
    const [hostPort, port] = /^\d{1,5}=\d{1,5}$/.test(part) ? part.split('=').map(Number) : []
    if (!isPort(hostPort) || !isPort(port)) return { problem: `${JSON.stringify(part.slice(0, 40))} is not HOSTPORT=PORT` }
    if (ports.some((each) => each.hostPort === hostPort)) return { problem: `the port ${hostPort} is there twice` }
    if (ports.length === maxPublishedPorts) return { problem: `more than ${maxPublishedPorts} ports` }
    ports.push({ hostPort, port })
  }
  return { ports }
}

/** `NAMESPACE/GATEWAY[:PORT]=HOSTPORT`; undefined where it is something else. */
export function parsePublishOption(text: string): PublishOption | undefined {
  const [, namespace = '', name = '', portText, hostText = ''] = /^([a-z0-9-]{1,63})\/([a-z0-9-]{1,63})(?::(\d{1,5}))?=(\d{1,5})$/.exec(text) ?? []
  const [hostPort, port] = [Number(hostText), portText === undefined ? undefined : Number(portText)]
  if (namespace === '' || !isPort(hostPort) || (port !== undefined && !isPort(port))) return undefined
  return { namespace, name, hostPort, ...(port === undefined ? {} : { port }) }
}

function isPort(value: number | undefined): value is number {
  return value !== undefined && value >= 1 && value <= 65_535
}
