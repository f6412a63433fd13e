// Objects that tests on Kubernetes apply, said briefly: pods of the test applications, and services for them. Pure.
import { appsDirectory } from './app-image.ts'

export interface WorkloadWish {
  readonly namespace: string
  readonly image: string
  /** Command line in the container; sleeps for ever unless told. */
  readonly command?: readonly string[]
  readonly replicas?: number
  /** Beside `app: NAME`. */
  readonly labels?: Readonly<Record<string, string>>
  readonly node?: string
  /** Merged into the container. */
  readonly container?: Readonly<Record<string, unknown>>
  /** Merged into the pod's spec. */
  readonly spec?: Readonly<Record<string, unknown>>
  readonly serviceAccount?: string
}

type Manifest = Readonly<Record<string, unknown>>

export function podSpec(wish: WorkloadWish): Manifest {
  return {
    ...wish.node === undefined ? {} : { nodeSelector: { 'kubernetes.io/hostname': wish.node } },
    ...wish.serviceAccount === undefined ? {} : { serviceAccountName: wish.serviceAccount },
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'main', image: wish.image, imagePullPolicy: 'IfNotPresent', command: wish.command ?? ['sleep', 'infinity'], ...wish.container }],
    ...wish.spec,
  }
}

export function pod(name: string, wish: WorkloadWish): Manifest {
  return { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: wish.namespace, labels: { app: name, ...wish.labels } }, spec: podSpec(wish) }
}

export function deployment(name: string, wish: WorkloadWish): Manifest {
  return {
    apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name, namespace: wish.namespace, labels: { app: name } },
    spec: {
      replicas: wish.replicas ?? 1, selector: { matchLabels: { app: name } },
      template: { metadata: { labels: { app: name, ...wish.labels } }, spec: podSpec(wish) },
    },
  }
}

export function serviceAccount(namespace: string, name: string): Manifest {
  return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } }
}

export interface ServicePort {
  readonly name: string
  readonly port: number
  readonly targetPort?: number
  readonly appProtocol?: string
}

/** For pods with `app: NAME`, in both families, unless `spec` says otherwise. */
export function service(namespace: string, name: string, ports: readonly ServicePort[], spec: Manifest = {}): Manifest {
  return { apiVersion: 'v1', kind: 'Service', metadata: { name, namespace }, spec: { selector: { app: name }, ports, ipFamilyPolicy: 'PreferDualStack', ...spec } }
}

/** Answers each HTTP request with its pod's name, the client's address and, after that, `greeting`. `/slow` takes 300 ms. */
export function whoServer(port = 8080, greeting = ''): string[] {
  return ['node', '-e', `const {createServer} = require('node:http'), {hostname} = require('node:os')
    const server = createServer((q, s) => {
      // A client that has gone has no address any more.
      const answer = [hostname(), (q.socket.remoteAddress ?? '').replace('::ffff:', ''), ${JSON.stringify(greeting)}].join(' ')
      setTimeout(() => s.end(answer), q.url === '/slow' ? 300 : 0)
    })
    server.listen(${port}, '::')
    process.on('SIGTERM', () => process.exit(0))`]
}

/** Prints what the URL answers: status, then body. Exits with 1 and the error's code if nothing does. */
export function fetchOnce(url: string, timeoutMs = 5000): string[] {
  return ['node', '-e', `fetch(${JSON.stringify(url)}, { signal: AbortSignal.timeout(${timeoutMs}) }).then(async (a) => console.log(a.status, await a.text()),
    (e) => { console.log(e.cause?.code ?? e.name); process.exit(1) })`]
}

/** An echo server that drains as an application should. */
export function drainingServer(port = 7001): string[] {
  return ['node', `${appsDirectory}/draining-server.ts`, String(port)]
}
