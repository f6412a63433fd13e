// An echo server that leaves as an application should: told to end, it goes on serving for a while, because others still have to
// learn of it, then takes nothing new and ends with its last connection. `draining-server.ts PORT`
import { createServer } from 'node:net'

/** Until nobody sends anything new: longer than any proxy needs to hear of it. */
const lameDuckMs = 3_000

const server = createServer({ allowHalfOpen: false }, (socket) => {
  socket.on('error', () => {}) // its client's business
  socket.pipe(socket)
})
server.listen(Number(process.argv[2]), '::')
process.on('SIGTERM', () => {
  setTimeout(() => server.close(() => process.exit(0)), lameDuckMs)
})
