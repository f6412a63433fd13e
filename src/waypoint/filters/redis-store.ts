// Limits that several proxies count in together, in a Redis-compatible server. One script takes all limits of a request or none,
// by the server's clock; what it gives back are the states before, and the words for clients are made of them by the same
// functions that count locally. Keeps no requests waiting for a server that is away: they fail at once.
import { createHash } from 'node:crypto'
import { createClient } from '@redis/client'
import { describeError, MeshError } from '../../core/errors.ts'
import { gcra, quotaWindow } from '../../policy/l7/rate-limit.ts'
import type { LimitState, LimitUse, QuotaRule } from '../../policy/l7/rate-limit.ts'
import type { SharedLimitStore } from '../../policy/l7/limit-store.ts'

// Times are milliseconds as text with all their digits: replies of Lua numbers would lose the fractions. The arithmetic is that
// of gcra(), step for step, so that both come to the same.
const script = `
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local all = true
local out = { string.format('%.17g', now) }
local puts = {}
for i = 1, #KEYS do
  local at = (i - 1) * 5
  local kind, limit, window = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local burst, cost = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local before = tonumber(redis.call('GET', KEYS[i]) or '0') or 0
  out[i + 1] = string.format('%.17g', before)
  if kind == 'q' then
    if before + cost > limit then all = false else puts[i] = { before + cost, window } end
  elseif limit <= 0 or cost > burst then
    all = false
  else
    local step = window / limit
    local room = burst * step
    local after = math.min(math.max(before, now), now + room) + cost * step
    local slack = math.min(step / 10, burst * 0.00013)
    if after - room > now + slack then all = false else puts[i] = { after, math.max(1, math.ceil(after - now) + 1000) } end
  end
end
if all then
  for i = 1, #KEYS do redis.call('SET', KEYS[i], string.format('%.17g', puts[i][1]), 'PX', puts[i][2]) end
end
return out
`

const scriptId = createHash('sha1').update(script).digest('hex')

export interface RedisLimitStoreOptions {
  /** `redis://`, `rediss://`; or `unix:/path` of a socket. */
  readonly url: string
  /** In front of all keys: what several meshes keep apart in one server. */
  readonly prefix?: string
  readonly connectTimeoutMs?: number
  /** Requests that wait for answers; beyond it they fail at once. */
  readonly mostPending?: number
  /** The connection changed for the better or the worse: for logs. */
  readonly onChange?: (isThere: boolean, why?: string) => void
}

type Client = ReturnType<typeof createClient>

export class RedisLimitStore implements SharedLimitStore {
  readonly #client: Client
  readonly #prefix: string
  #isThere = false

  constructor({
    url, prefix = 'sidestep:limit:', connectTimeoutMs = 2_000, mostPending = 10_000, onChange,
  }: RedisLimitStoreOptions) {
    this.#prefix = prefix
    const common = {
      connectTimeout: connectTimeoutMs,
      reconnectStrategy: (retries: number): number => Math.min(2_000, 50 * 2 ** Math.min(retries, 6)) * (0.5 + Math.random() / 2),
    }
    const place = url.startsWith('unix:') ? {
      socket: { ...common, path: url.slice('unix:'.length), tls: false as const },
    } : { url, socket: common }
    const client = createClient({ ...place, RESP: 2, disableOfflineQueue: true, commandsQueueMaxLength: mostPending })
    const told = (isThere: boolean, why?: string): void => {
      if (this.#isThere === isThere && isThere) return
      this.#isThere = isThere
      onChange?.(isThere, why)
    }
    client.on('ready', () => told(true))
    client.on('error', (error: unknown) => told(false, describeError(error)))
    // The union of options makes several types of one client.
    this.#client = client as unknown as Client
    // It goes on trying by itself; that the first attempt failed is told by 'error'.
    client.connect().catch((error: unknown) => told(false, describeError(error)))
  }

  get isReady(): boolean {
    return this.#client.isReady
  }

  async take(uses: readonly LimitUse[], signal: AbortSignal): Promise<readonly LimitState[]> {
    if (!this.#client.isReady) throw new MeshError(
      'CONNECT_FAILED', 'the store of limits is not connected', { source: 'upstream' },
    )
    const proxyNow = Date.now()
    const windows = uses.map(({ rule }) => (rule.kind === 'quota' ? quotaWindow(rule.period, proxyNow) : undefined))
    const keys = uses.map(({ rule, key }, i) => `${this.#prefix}${rule.name}:${key}${windows[i] ? `:${windows[i].startMs}` : ''}`)
    const args = uses.flatMap(({ rule, cost = 1 }, i) => {
      const end = windows[i]?.endMs
      if (rule.kind === 'quota') return [
        'q', String(rule.limit), String(Math.max(1, (end ?? proxyNow) - proxyNow) + 1_000), '0', String(cost),
      ]
      const burst = Math.max(rule.limit > 0 ? 1 : 0, rule.burst ?? rule.limit)
      return ['r', String(rule.limit), String(rule.windowMs), String(burst), String(cost)]
    })
    const [nowText, ...befores] = await this.#run(keys, args, signal)
    const now = Number(nowText)
    if (!Number.isFinite(now) || befores.length !== uses.length) throw new MeshError(
      'BAD_MESSAGE', 'the store of limits gave no states', { source: 'upstream' },
    )
    return states(uses, befores.map(Number), now, windows.map((window) => window?.endMs ?? 0))
  }

  async #run(keys: readonly string[], args: readonly string[], abortSignal: AbortSignal): Promise<readonly string[]> {
    const rest = [String(keys.length), ...keys, ...args]
    const send = (...command: string[]): Promise<unknown> => this.#client.sendCommand(command, { abortSignal })
    try {
      let reply: unknown
      try {
        reply = await send('EVALSHA', scriptId, ...rest)
      } catch (error) {
        // A server that was started anew, or replaced, does not know it.
        if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error
        reply = await send('EVAL', script, ...rest)
      }
      return Array.isArray(reply) ? reply.map(String) : []
    } catch (error) {
      throw new MeshError(
        'CONNECT_FAILED', `the store of limits did not answer: ${describeError(error)}`, { source: 'upstream', cause: error },
      )
    }
  }

  close(): void {
    if (this.#client.isOpen) this.#client.destroy()
  }
}

/** As LocalLimiter.take(): where one refuses, the others say what they have left without this request. */
function states(uses: readonly LimitUse[], befores: readonly number[], now: number, ends: readonly number[]): LimitState[] {
  const looked = uses.map(({ rule, cost = 1 }, i) => {
    const before = befores[i] ?? 0
    if (rule.kind === 'quota') return quotaStates(rule, before, cost, (ends[i] ?? now) - now)
    const { after: _, ...state } = gcra(rule, before, now, cost)
    const { after: __, ...unused } = gcra(rule, before, now, 0)
    return { state, unused }
  })
  if (looked.every(({ state }) => state.isAllowed)) return looked.map(({ state }) => state)
  return looked.map(({ state, unused }) => (state.isAllowed ? unused : state))
}

function quotaStates(rule: QuotaRule, used: number, cost: number, untilEndMs: number): {
  readonly state: LimitState; readonly unused: LimitState
} {
  const resetMs = Math.max(0, untilEndMs)
  const unused: LimitState = {
    rule, isAllowed: true, remaining: Math.max(0, Math.floor(rule.limit - used)), resetMs, retryAfterMs: 0,
  }
  if (used + cost <= rule.limit) return {
    state: { ...unused, remaining: Math.max(0, Math.floor(rule.limit - used - cost)) }, unused,
  }
  return { state: { ...unused, isAllowed: false, retryAfterMs: cost > rule.limit ? Number.POSITIVE_INFINITY : resetMs }, unused }
}
