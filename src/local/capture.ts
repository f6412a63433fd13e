// Looks at the wire between the nodes of a local mesh: tcpdump on the link of one of them, in the namespace between them. The
// capture ends with whoever asked for it, and its file is in the mesh's own directory, so nothing of it outlives the mesh.
import { spawn } from 'node:child_process'
import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import type { WireView, WireWatch } from '../model/wire-view.ts'
import { nodeIps } from './addresses.ts'
import { mustRun } from './command.ts'
import { decodeCapture, wireView } from './packets.ts'
import { readProcessRecords, statePaths } from './state.ts'

const startMs = 10_000
const completeMs = 10_000
const maxPackets = 200_000

/**
 * Watches the link of the first node from now on. NOT_FOUND without such a mesh; COMMAND_FAILED, saying so, without tcpdump.
 */
export async function watchWire(mesh: string): Promise<WireWatch> {
  const paths = statePaths(mesh)
  const underlay = readProcessRecords(paths).find(({ role }) => role === 'underlay')
  if (!underlay) throw new MeshError('NOT_FOUND', `no mesh named ${mesh} is up`)
  const enter = ['nsenter', `--net=/proc/${underlay.identity.pid}/ns/net`, '--']
  const file = join(paths.root, `wire-${process.pid}.pcap`)
  const command = [...enter, 'setpriv', '--pdeathsig', 'KILL', 'tcpdump', '-i', 'node1', '-w', file, '-c', `${maxPackets}`, '-Z', 'root', '-U', '--immediate-mode', '-B', '32768', '-n']
  const [program = '', ...args] = command
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  let hasEnded = false
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said = (said + chunk).slice(0, 4_096)))
  const ended = new Promise<void>((resolve) => {
    child.on('error', (error) => {
      said += error.message
      resolve()
    })
    child.on('close', () => resolve())
  }).then(() => (hasEnded = true))
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
    rmSync(file, { force: true })
  }
  const deadline = performance.now() + startMs
  while (!said.includes('listening on')) {
    if (hasEnded || performance.now() > deadline) {
      await stop()
      const isMissing = said.includes('No such file or directory')
      throw new MeshError('COMMAND_FAILED', isMissing ? 'tcpdump is not installed: apt-get install tcpdump' : `tcpdump does not listen: ${said.trim()}`)
    }
    await sleep(10)
  }

  let looks = 0
  const look = async (): Promise<WireView> => {
    // Something of our own on the wire: when it is in the file, so is all that came before.
    const sentinel = `sidestep sentinel ${process.pid}.${++looks}.`
    await mustRun([...enter, 'bash', '-c', `printf %s '${sentinel}' > /dev/udp/${nodeIps(1).v4}/9`], { timeoutMs: 5_000 })
    const before = performance.now() + completeMs
    for (;;) {
      const packets = decodeCapture(readFileSync(file))
      if (packets.some(({ payload }) => payload.includes(sentinel))) return wireView(packets.filter(({ payload }) => !payload.includes('sidestep sentinel ')))
      if (hasEnded || performance.now() > before) throw new MeshError('COMMAND_FAILED', `tcpdump did not write all it saw: ${said.trim()}`)
      await sleep(50)
    }
  }
  return { look, stop }
}
