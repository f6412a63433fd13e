import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { manifestKinds, objectKey, type ManifestKind } from './manifest.ts'
import { resolvePort } from './manifest-pod.ts'
import { parseManifest, type ParsedManifest } from './manifest-parse.ts'

const shop = `apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { sidestep.dev/mesh: enabled } }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: web, namespace: shop }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web, namespace: shop }
spec:
  replicas: 2
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      serviceAccountName: web
      containers:
        - name: web
          image: ignored:1
          command: [node, -e, "1"]
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { tcpSocket: { port: http }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  selector: { app: web }
  ports: [{ port: 80, targetPort: http }]
`
const pod = (body: string): string => `apiVersion: v1\nkind: Pod\nmetadata: { name: p }\nspec:\n${body}`

function wellFormed(parsed: ParsedManifest): void {
  for (const { file, line, reason } of [...parsed.problems, ...parsed.notes]) {
    expect(file).toBe('f.yaml')
    expect(line).toBeGreaterThanOrEqual(1)
    expect(reason).not.toBe('')
  }
}

describe('a file of Kubernetes objects', () => {
  test('is read with its defaults and the line of each object', () => {
    const { objects, problems } = parseManifest(shop, 'shop.yaml')
    expect(problems).toEqual([])
    expect(objects.map((o) => [objectKey(o), o.origin.line])).toEqual([
      ['Namespace shop', 1],
      ['ServiceAccount shop/web', 5],
      ['Deployment shop/web', 9],
      ['Service shop/web', 26],
    ])
    const deployment = objects.find((o) => o.kind === 'Deployment')
    expect(deployment?.spec).toMatchObject({
      replicas: 2,
      template: { spec: { restartPolicy: 'Always', terminationGracePeriodSeconds: 30, serviceAccountName: 'web' } },
    })
    expect(resolvePort('http', deployment?.spec.template.spec.containers[0]?.ports ?? [])).toBe(8080)
  })

  test('empty documents, nulls for absent fields and a List are understood', () => {
    const text = '---\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata:\n    name: a\n    labels:\n'
    expect(parseManifest(text, 'f.yaml')).toMatchObject({ problems: [], objects: [{ kind: 'Namespace', origin: { line: 6 } }] })
  })

  test('kinds of others are noted, not refused', () => {
    const { problems, notes } = parseManifest('apiVersion: x/v1\nkind: AuthorizationPolicy\nmetadata: { name: a }\n', 'f.yaml')
    expect(problems).toEqual([])
    expect(notes).toEqual([{ file: 'f.yaml', line: 2, reason: expect.stringContaining('AuthorizationPolicy of x/v1') }])
  })
})

describe('a mistake is reported with its line', () => {
  test.each([
    ['syntax', 'apiVersion: v1\nkind: Pod\nmetadata: { name: [\n', 4, /./],
    ['no kind', 'apiVersion: v1\nmetadata: {}\n', 1, /kind is missing/],
    ['not an object', '- 1\n- 2\n', 1, /not a Kubernetes object/],
    ['wrong apiVersion', 'apiVersion: v1\nkind: Deployment\n', 1, /apps\/v1/],
    ['a key twice', 'apiVersion: v1\nkind: Pod\nkind: Pod\n', 3, /given twice/],
    ['a bad name', 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: Bad_Name\n', 4, /metadata.name/],
    ['no command', pod('  containers:\n  - name: a\n    image: x\n'), 6, /needs a command/],
    ['an unknown env source', pod('  containers:\n  - name: a\n    command: [x]\n    env:\n    - name: S\n      valueFrom: { secretKeyRef: {} }\n'), 10, /secretKeyRef/],
    ['two probe kinds', pod('  containers:\n  - name: a\n    command: [x]\n    livenessProbe: { exec: { command: [x] }, tcpSocket: { port: 1 } }\n'), 8, /exactly one/],
    ['a port out of range', pod('  containers:\n  - name: a\n    command: [x]\n    ports:\n    - containerPort: 70000\n'), 9, /containerPort/],
    ['None without servers', pod('  dnsPolicy: None\n  containers: [{ name: a, command: [x] }]\n'), 5, /nameservers/],
  ])('%s', (_name, text, line, reason) => {
    const { problems, objects } = parseManifest(text, 'f.yaml')
    expect(objects).toEqual([])
    expect(problems).toContainEqual(expect.objectContaining({ file: 'f.yaml', line, reason: expect.stringMatching(reason) }))
  })
})

describe('text from a stranger', () => {
  test('never throws, whatever it is', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => wellFormed(parseManifest(text, 'f.yaml'))))
    const yamlish = fc.array(fc.constantFrom(...'-:?[]{}&*!|>#\'"%@`,\n\t ab1~<'.split(''), '---\n', '&a ', '*a', '<<: ', 'kind: ', 'Pod\n', '  ', '!!binary ', '...\n'))
    fc.assert(fc.property(yamlish, (parts) => wellFormed(parseManifest(parts.join(''), 'f.yaml'))), { numRuns: 2000 })
  })

  test('a good file with one stretch replaced gives objects or problems, never a throw', () => {
    fc.assert(
      fc.property(fc.nat(shop.length), fc.nat(40), fc.string({ maxLength: 20 }), (at, length, noise) => {
        wellFormed(parseManifest(shop.slice(0, at) + noise + shop.slice(at + length), 'f.yaml'))
      }),
      { numRuns: 1000 },
    )
  })

  test('any JSON under each kind gives objects or problems', () => {
    const kinds = fc.constantFrom<string>(...Object.keys(manifestKinds), '__proto__', 'constructor')
    fc.assert(
      fc.property(kinds, fc.jsonValue(), fc.jsonValue(), (kind, metadata, spec) => {
        const apiVersion = Object.hasOwn(manifestKinds, kind) ? manifestKinds[kind as ManifestKind].apiVersions[0] : 'v1'
        wellFormed(parseManifest(JSON.stringify({ apiVersion, kind, metadata, spec }), 'f.yaml'))
      }),
      { numRuns: 500 },
    )
  })

  test.each([
    ['deep flow sequences', '['.repeat(500_000)],
    ['deep flow maps', '{a: '.repeat(200_000)],
    ['dashes on one line', '- '.repeat(500_000)],
    ['deep blocks', Array.from({ length: 1200 }, (_, i) => `${' '.repeat(i)}a:\n`).join('')],
    ['an alias bomb', `a0: &a0 [x]\n${Array.from({ length: 40 }, (_, i) => `a${i + 1}: &a${i + 1} [${Array.from({ length: 9 }, () => `*a${i}`).join(', ')}]\n`).join('')}`],
    ['many keys', Array.from({ length: 120_000 }, (_, i) => `k${i}:\n`).join('')],
    ['many documents', '---\na: 1\n'.repeat(5000)],
    ['too large', `a: ${'x'.repeat(1 << 20)}\n`],
    ['a huge scalar of quotes', `a: "${'\\"'.repeat(400_000)}"\n`],
    ['many anchors', Array.from({ length: 30_000 }, (_, i) => `- &a${i} x\n`).join('')],
  ])('%s: reported, long before the test gives up', (_name, text) => {
    const parsed = parseManifest(text, 'f.yaml')
    expect(parsed.problems.length).toBeGreaterThan(0)
    wellFormed(parsed)
  })
})
