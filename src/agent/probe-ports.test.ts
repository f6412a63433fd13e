import { anything, assert, constantFrom, dictionary, letrec, oneof, property } from 'fast-check'
import { expect, test } from 'vitest'
import { probePorts } from './probe-ports.ts'

test('all probes of all containers, by number and by name, and HTTP hooks', () => {
  expect(probePorts({
    containers: [
      {
        ports: [{ name: 'http', containerPort: 8080 }, { containerPort: 9090 }],
        readinessProbe: { httpGet: { path: '/', port: 'http' } }, livenessProbe: { tcpSocket: { port: 9091 } }, startupProbe: { exec: { command: ['true'] } },
        lifecycle: { preStop: { httpGet: { port: 9092 } }, postStart: { sleep: { seconds: 1 } } },
      },
      { livenessProbe: { grpc: { port: 5000, service: 'x' } }, readinessProbe: { httpGet: { port: '8081' } } },
    ],
    initContainers: [{ restartPolicy: 'Always', ports: [{ name: 'http', containerPort: 7070 }], startupProbe: { httpGet: { port: 'http' } } }],
  })).toEqual([5000, 7070, 8080, 8081, 9091, 9092])
})

test('a name is one of the same container; another host is not the pod', () => {
  expect(probePorts({
    containers: [
      { ports: [{ name: 'http', containerPort: 8080 }] }, { readinessProbe: { httpGet: { port: 'http' } } },
      { livenessProbe: { httpGet: { port: 8082, host: '127.0.0.1' } } }, { livenessProbe: { tcpSocket: { port: 8083, host: '' } } },
    ],
  })).toEqual([8083])
})

test('no more than an enrolment can have, and nothing that is no port', () => {
  const containers = Array.from({ length: 100 }, (_, i) => ({ livenessProbe: { tcpSocket: { port: 1000 + i } } }))
  expect(probePorts({ containers })).toHaveLength(64)
  expect(probePorts({ containers: [{ livenessProbe: { tcpSocket: { port: 0 } } }, { livenessProbe: { tcpSocket: { port: 70_000 } } }, { livenessProbe: { grpc: {} } }, 7, null] })).toEqual([])
})

test('any shape: ports or none', () => {
  const key = constantFrom('containers', 'initContainers', 'ports', 'name', 'containerPort', 'livenessProbe', 'httpGet', 'tcpSocket', 'port', 'lifecycle', 'preStop')
  const { tree } = letrec((tie) => ({ tree: oneof({ maxDepth: 6 }, anything(), dictionary(key, tie('tree')), constantFrom([{}], [{ livenessProbe: {} }])) }))
  assert(property(tree, (spec) => {
    for (const port of probePorts(spec)) expect(port).toBeGreaterThan(0)
  }), { numRuns: 500 })
})
