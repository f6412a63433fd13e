// The keys and certificates of a test cluster, as kubeadm would lay them out, and a kubeconfig for each of its parts.
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as x509 from '../../src/pki/x509.ts'
import type { Layout } from './addresses.ts'

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const lifetimeMs = 365 * 86_400_000
export const apiPort = 6443

/** Who gets a kubeconfig, and as whom. */
function users(nodes: readonly string[]): Readonly<Record<string, string>> {
  return {
    admin: 'O=system:masters,CN=admin',
    'controller-manager': 'CN=system:kube-controller-manager',
    scheduler: 'CN=system:kube-scheduler',
    proxy: 'CN=system:kube-proxy',
    'apiserver-kubelet-client': 'O=system:masters,CN=kube-apiserver-kubelet-client',
    ...Object.fromEntries(nodes.map((node) => [node, `O=system:nodes,CN=system:node:${node}`])),
  }
}

/** Fills `DIRECTORY/pki` and `DIRECTORY/NAME.kubeconfig`. */
export async function writeKeys(layout: Layout, nodes: readonly string[]): Promise<void> {
  const directory = join(layout.directory, 'pki')
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const write = (name: string, text: string): void => writeFileSync(join(directory, name), text, { mode: 0o600 })
  const notBefore = new Date(Date.now() - 3_600_000)
  const notAfter = new Date(Date.now() + lifetimeMs)
  const common = { notBefore, notAfter, signingAlgorithm: algorithm }
  const newKeys = () => crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const pem = async (key: CryptoKey): Promise<string> => x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
  const serialNumber = (): string => `01${randomBytes(8).toString('hex')}`

  const caKeys = await newKeys()
  const ca = await x509.X509CertificateGenerator.createSelfSigned({
    ...common, serialNumber: serialNumber(), name: 'CN=test-cluster-ca', keys: caKeys,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign | x509.KeyUsageFlags.digitalSignature, true),
      await x509.SubjectKeyIdentifierExtension.create(caKeys.publicKey),
    ],
  })
  write('ca.crt', ca.toString('pem'))
  write('ca.key', await pem(caKeys.privateKey))

  const issue = async (name: string, subject: string, extensions: readonly x509.Extension[]): Promise<void> => {
    const keys = await newKeys()
    const certificate = await x509.X509CertificateGenerator.create({
      ...common, serialNumber: serialNumber(), subject, issuer: ca.subject, publicKey: keys.publicKey, signingKey: caKeys.privateKey,
      extensions: [...extensions, await x509.AuthorityKeyIdentifierExtension.create(caKeys.publicKey)],
    })
    write(`${name}.crt`, certificate.toString('pem'))
    write(`${name}.key`, await pem(keys.privateKey))
  }

  const addresses = ['127.0.0.1', '::1', layout.control.v4, layout.control.v6, layout.apiService.v4, layout.apiService.v6]
  const names = ['localhost', 'kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'kubernetes.default.svc.cluster.local']
  await issue('apiserver', 'CN=kube-apiserver', [
    new x509.SubjectAlternativeNameExtension([...names.map((value) => ({ type: 'dns' as const, value })), ...addresses.map((value) => ({ type: 'ip' as const, value }))]),
    new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
  ])
  for (const [name, subject] of Object.entries(users(nodes))) {
    await issue(name, subject, [new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth])])
    writeFileSync(join(layout.directory, `${name}.kubeconfig`), kubeconfig(layout, name), { mode: 0o600 })
  }
  const tokens = generateKeyPairSync('rsa', { modulusLength: 2048 })
  write('sa.key', tokens.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString())
  write('sa.pub', tokens.publicKey.export({ type: 'spki', format: 'pem' }).toString())
}

/** JSON, which is YAML. With all that it needs: machines of the cluster see other files than the host. */
function kubeconfig(layout: Layout, name: string): string {
  const data = (file: string): string => readFileSync(join(layout.directory, 'pki', file)).toString('base64')
  return JSON.stringify({
    apiVersion: 'v1', kind: 'Config',
    clusters: [{ name: layout.link, cluster: { server: `https://${layout.control.v4}:${apiPort}`, 'certificate-authority-data': data('ca.crt') } }],
    users: [{ name, user: { 'client-certificate-data': data(`${name}.crt`), 'client-key-data': data(`${name}.key`) } }],
    contexts: [{ name: layout.link, context: { cluster: layout.link, user: name } }],
    'current-context': layout.link,
  }, null, 2)
}
