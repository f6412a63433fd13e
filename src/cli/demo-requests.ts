// The questions about the shop's waypoint and its ingress: what is claimed of requests, tried by real requests.
import { get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { dwellMs, hold, noneFailed, NotSo, until, type Claim } from './demo-claims.ts'
import { catalogueAnswerSchema, type Shop } from './demo-shop.ts'
import { requestCounts } from './requests.ts'

const splitRequests = 200
const previewRequests = 30

export const requestClaims: readonly Claim[] = [
  { claim: 'nine of ten requests go to the old catalogue, one to the new one', see: split },
  { claim: 'the new catalogue fails every third time, and nobody notices', see: retried },
  { claim: 'searches are limited for each identity, and who waits is served again', see: limited },
  { claim: 'only the frontend may POST payments; others may look', see: post },
  { claim: 'nobody passes by the waypoint', see: passedBy },
  { claim: 'the ingress serves a browser on this machine', see: ingress },
  { claim: 'the waypoint replaced: no request fails', see: rolled },
]

/** Many requests of one client, one after the other. */
async function many(shop: Shop, pod: string, url: string, count: number, ...more: readonly string[]): Promise<readonly { status: number; body: string }[]> {
  const { text, code } = await shop.ask('shop', pod, `${url}?[1-${count}]`, '--write-out', '\n%{http_code}\n', ...more)
  hold(code === 0, `curl exited with ${code}`)
  const lines = text.split('\n').filter((line) => line !== '')
  const answers: { status: number; body: string }[] = []
  for (let i = 0; i + 1 < lines.length; i += 2) answers.push({ body: lines[i] ?? '', status: Number(lines[i + 1]) })
  return answers
}

async function split(shop: Shop): Promise<string> {
  const answers = await many(shop, 'frontend', 'http://catalogue/items', splitRequests)
  const failed = answers.find(({ status }) => status !== 200)
  hold(answers.length === splitRequests && !failed, `${answers.length} answers, one of them ${failed?.status ?? 'missing'}`)
  const share = answers.filter(({ body }) => body.includes('catalogue-v2-')).length
  // Five standard deviations about 20.
  hold(share > 0 && share < 42, `${share} of ${splitRequests} went to the new one`)
  return `${splitRequests - share} to catalogue-v1, ${share} to catalogue-v2`
}

async function retried(shop: Shop): Promise<string> {
  const answers = await many(shop, 'frontend', 'http://catalogue/preview', previewRequests, '--header', 'x-version: v2')
  const statuses = [...new Set(answers.map(({ status }) => status))].join(', ')
  hold(answers.length === previewRequests && statuses === '200', `${answers.length} answers: ${statuses}`)
  const failed = answers.map(({ body }) => catalogueAnswerSchema.parse(JSON.parse(body)).failed ?? 0)
  const hidden = (failed.at(-1) ?? 0) - (failed[0] ?? 0)
  hold(hidden >= previewRequests / 5, `the new catalogue failed only ${hidden} times`)
  const counted = [...(await shop.proxies('waypoint')).values()].reduce((sum, series) => sum + requestCounts(series).retries, 0)
  hold(counted >= hidden, `the waypoint counted ${counted} retries`)
  return `${hidden} failures behind ${previewRequests} answers of 200; ${counted} retries so far`
}

async function limited(shop: Shop): Promise<string> {
  const answers = await many(shop, 'scraper', 'http://catalogue/search', 8)
  const count = (status: number): number => answers.filter((each) => each.status === status).length
  hold(count(200) === 5 && count(429) === 3, `answers: ${answers.map(({ status }) => status).join(' ')}`)
  const { text } = await shop.ask('shop', 'scraper', 'http://catalogue/search', '--include', '--output', '-')
  const retryAfter = Number(/^retry-after: (\d+)/im.exec(text)?.[1] ?? Number.NaN)
  hold(/^ratelimit: /im.test(text) && retryAfter >= 1, `without the headers of a limit: ${text.slice(0, 200)}`)
  const other = await shop.ask('shop', 'frontend', 'http://catalogue/search', '--include')
  hold(other.text.startsWith('HTTP/1.1 200'), `the frontend was limited, too: ${other.text.slice(0, 40)}`)
  await until('a search is served again', async () => (await shop.ask('shop', 'scraper', 'http://catalogue/search', '--include')).text.startsWith('HTTP/1.1 200'))
  return `5 of 8 searches, then 429 (retry-after ${retryAfter}); the frontend is not held up`
}

async function post(shop: Shop): Promise<string> {
  const status = async (pod: string, method: string): Promise<string> => (await shop.ask('shop', pod, 'http://payments/', '--request', method, '--write-out', ' %{http_code}')).text.split(' ').at(-1) ?? ''
  const seen = { frontend: await status('frontend', 'POST'), catalogue: await status('catalogue-v2', 'POST'), look: await status('catalogue-v2', 'GET') }
  hold(seen.frontend === '200' && seen.catalogue === '403' && seen.look === '200', `POST of the frontend ${seen.frontend}, of the catalogue ${seen.catalogue}; GET of the catalogue ${seen.look}`)
  return 'POST: frontend 200, catalogue 403; GET: catalogue 200'
}

async function passedBy(shop: Shop): Promise<string> {
  const { ips: [ip = ''] } = await shop.pod('shop', 'catalogue-v1')
  const before = await throughWaypoint(shop)
  const meshed = await shop.ask('shop', 'scraper', `http://${ip}:8080/`)
  const outside = await shop.ask('legacy', 'reporter', `http://${ip}:8080/`)
  hold(outside.code !== 0, `a pod outside of the mesh was answered ${outside.text.slice(0, 80)}`)
  hold(meshed.text.includes('catalogue-v1'), `the scraper was answered ${meshed.text.slice(0, 80)}`)
  const edge = 'shop/scraper shop/catalogue-v1'
  await until('the waypoint counted it', async () => ((await throughWaypoint(shop)).get(edge) ?? 0) > (before.get(edge) ?? 0))
  return 'the address of a pod leads through it, too; plain text is refused'
}

/** Requests so far, by who asked whom. */
async function throughWaypoint(shop: Shop): Promise<ReadonlyMap<string, number>> {
  const all = [...(await shop.proxies('waypoint')).values()].flatMap((series) => [...requestCounts(series).edges])
  return new Map(all.map(([key, { all: count }]) => [key, count]))
}

async function ingress(shop: Shop): Promise<string> {
  const { published } = await shop.client.status()
  const [port] = published.filter(({ gateway }) => gateway === 'shop/ingress')
  if (!port?.listening) throw new NotSo(port?.because ?? 'no port is published')
  const url = port.url.replace(/\/$/, '')
  const [page, item] = await Promise.all([fetchText(`${url}/`, 'text/html'), fetchText(`${url}/catalogue/item`, '*/*')])
  hold(page.status === 200 && page.text.includes('<h1>The shop</h1>'), `${url}/ answered ${page.status} ${page.text.slice(0, 80)}`)
  hold(item.status === 200 && item.text.includes('"path":"/item"'), `${url}/catalogue/item answered ${item.status} ${item.text.slice(0, 80)}`)
  return `${url}/ is the shop's page, ${url}/catalogue/item comes from ${catalogueAnswerSchema.parse(JSON.parse(item.text)).pod.slice(0, 12)}`
}

function fetchText(url: string, accept: string): Promise<{ readonly status: number; readonly text: string }> {
  return new Promise((resolve, reject) => {
    get(url, { headers: { accept }, agent: false, timeout: 5_000 }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text = (text + part).slice(0, 65_536))).on('end', () => resolve({ status: response.statusCode ?? 0, text })).on('error', reject)
    }).on('error', reject)
  })
}

async function rolled(shop: Shop): Promise<string> {
  const before = await shop.counts('shop', 'frontend')
  const old = (await shop.pod('shop', 'waypoint')).name
  await shop.client.restartGateway({ namespace: 'shop', name: 'waypoint' })
  await until('another pod serves', async () => {
    const { gateways, pods } = await shop.client.status()
    return gateways.some(({ name, ready, pods: count }) => name === 'waypoint' && ready === 1 && count === 1) && !pods.some(({ name, phase }) => name === old && phase === 'Running')
  })
  await sleep(dwellMs)
  const now = (await shop.pod('shop', 'waypoint')).name
  return `${old} > ${now}; ${noneFailed(before, await shop.counts('shop', 'frontend'))}`
}
