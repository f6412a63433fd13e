// What pods talked to outside the mesh, as ztunnels and a waypoint learned it by real connections; and that the ServiceEntries which
// are printed of it open that, and nothing else.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { parseAllDocuments } from 'yaml'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { egressCommand } from '../../src/cli/egress.ts'
import { silentLogger } from '../../src/core/log.ts'
import { underlayIps } from '../../src/local/addresses.ts'
import { serveApi } from '../../src/local/api.ts'
import type { LearnedView } from '../../src/model/ztunnel-views.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { inNetns } from '../helpers/world.ts'
import { object, WaypointWorld } from '../helpers/waypoint-world.ts'
import type { Yaml } from '../helpers/waypoint-world.ts'

const outside = underlayIps.v4
/** Outside too, and the endpoint of an entry. */
const partner = '172.30.255.253'
const serverScript = `
const http = require('node:http')
for (const port of [9080, 9081]) http.createServer((request, response) => response.end('{}')).listen(port, () => port === 9081 && console.log('up'))
`
const away = (egress: string): Yaml => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'away', labels: { 'sidestep.dev/mesh': 'enabled', 'sidestep.dev/egress': egress } } })

let world: WaypointWorld
let api: Awaited<ReturnType<typeof serveApi>>
let server: ChildProcess | undefined
beforeAll(async () => {
  world = await WaypointWorld.start([
    object('networking.istio.io/v1', 'ServiceEntry', 'wild', {
      hosts: ['*.example.com'], addresses: ['240.0.1.1'], location: 'MESH_EXTERNAL', resolution: 'STATIC', endpoints: [{ address: partner }],
      ports: [{ number: 80, name: 'http', protocol: 'HTTP', targetPort: 9080 }],
    }),
  ])
  api = await serveApi(world.mesh, silentLogger)
  await inNetns(world.mesh.underlayNetns, ['ip', 'addr', 'add', `${partner}/16`, 'dev', 'br0'])
  server = spawn('nsenter', [`--net=${world.mesh.underlayNetns}`, '--', process.execPath, '-e', serverScript], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => server?.stdout?.once('data', resolve))
}, 120_000)
afterAll(async () => {
  server?.kill('SIGKILL')
  await api?.close()
  await world?.[Symbol.asyncDispose]()
})

async function list(...args: string[]): Promise<string> {
  let text = ''
  const take = (line: string): void => void (text += `${line}\n`)
  await egressCommand({ print: take, warn: take }).parseAsync(['list', '--name', world.mesh.name, ...args], { from: 'user' })
  return text
}
const learned = async (namespace: string): Promise<LearnedView[]> => JSON.parse(await list('-n', namespace, '-o', 'json')) as LearnedView[]
const reaches = async (port: number): Promise<boolean> => (await world.curl('guest', `http://${outside}:${port}/`)).code === 0

it('lists what a pod connects to by address, allowed and denied, and its entry opens that port alone', async () => {
  expect(await learned('away')).toEqual([])
  expect(await reaches(9080)).toBe(true)
  const place = { namespace: 'away', serviceAccount: 'guest', address: outside, port: 9080, protocol: 'tcp' }
  expect(await learned('away')).toMatchObject([{ ...place, count: 1, verdict: 'allowed' }])
  world.apply(away('deny'))
  await eventually('it is denied', async () => !await reaches(9080))
  const [denied] = await learned('away')
  expect(denied).toMatchObject({ ...place, verdict: 'denied' })
  expect(denied?.count).toBeGreaterThan(1)
  expect(await list('-n', 'away')).toMatch(new RegExp(`^NAMESPACE +DESTINATION .*\\naway +${outside.replaceAll('.', '\\.')} +9080 +tcp +\\d+ .* denied +guest\\n$`))
  world.apply(...parseAllDocuments(await list('-n', 'away', '--service-entries')).map((document) => document.toJS() as Yaml))
  await eventually('its entry opens it', () => reaches(9080))
  expect(await reaches(9081)).toBe(false)
  expect(await learned('away')).toMatchObject([{ ...place, verdict: 'allowed' }, { ...place, port: 9081, count: 1, verdict: 'denied' }])
})

it('lists what a waypoint sees by the Host of each request, covered or not', async () => {
  expect((await world.curl('client', 'http://240.0.1.1/', '-H', 'host: API.example.com')).status).toBe(200)
  expect((await world.curl('other', 'http://240.0.1.1/', '-H', 'host: evil.example.net')).status).toBe(421)
  expect((await world.curl('other', 'http://240.0.1.1/', '-H', `host: ${'a'.repeat(5_000)}`)).status).toBe(400)
  expect((await world.curl('client', 'http://web/')).status).toBe(200)
  expect(await learned('shop')).toMatchObject([
    { serviceAccount: 'client', host: 'api.example.com', address: '240.0.1.1', port: 80, protocol: 'http', count: 1, verdict: 'allowed' },
    { serviceAccount: 'other', host: 'evil.example.net', address: '240.0.1.1', port: 80, protocol: 'http', count: 1, verdict: 'denied' },
  ])
})
