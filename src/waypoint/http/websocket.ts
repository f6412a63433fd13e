// The key and its echo with which HTTP/1.1 opens a WebSocket (RFC 6455, 4). HTTP/2 has neither (RFC 8441, 5), so where one side speaks
// the one and one the other, the waypoint plays the part itself.
import { createHash, randomBytes } from 'node:crypto'

const guid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

export function newWebSocketKey(): string {
  return randomBytes(16).toString('base64')
}

export function acceptOf(key: string): string {
  return createHash('sha1').update(key + guid).digest('base64')
}

export function isExpectedAccept(key: string, accept: string | undefined): boolean {
  return accept === acceptOf(key)
}
