// What the hooks cost sockets of pods that are not enrolled: connections on the loopback of a plain pod, with an instance's
// hooks attached at the root of the cgroups, and with none of it.
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { silentLogger } from '../../src/core/log.ts'
import { MeshError } from '../../src/core/errors.ts'
import { findCgroup2 } from '../../src/kernel/cgroup.ts'
import { native } from '../../src/kernel/native.ts'
import { Netns } from '../../src/kernel/netns.ts'
import { Redirection } from '../../src/kernel/redirection.ts'
import { LocalMesh } from '../../src/local/mesh.ts'
import { runLoad, startLoadPeer } from '../helpers/apps.ts'
import type { LoadResults } from '../helpers/app-results.ts'
import { uniqueName } from '../helpers/instances.ts'
import { eventually } from '../helpers/meshed-world.ts'
import { podYaml } from '../helpers/world.ts'
import { compare } from './report.ts'
import type { Row } from './report.ts'
import { inTurns } from './samples.ts'
import type { Bench } from './settings.ts'

export async function measureHooks(bench: Bench): Promise<Row[]> {
  const mesh = await bench.undo.start(startPod(), (made) => made.stop(0))
  const wrap = ['nsenter', `--net=${mesh.podNetns('default', 'plain')}`, '--']
  const peer = await bench.undo.start(startLoadPeer(0, ['--bind', '127.0.0.1'], { wrap }), (made) => made[Symbol.asyncDispose]())
  const nodeNetns = await Netns.open(mesh.nodeNetns('node-a'))
  bench.undo.add(() => nodeNetns.close())
  const instance = uniqueName('bench')
  bench.undo.add(() => Redirection.remove(instance))

  const connect = async (): Promise<LoadResults['rate']> => {
    const result = await runLoad('rate', ['127.0.0.1', peer.port, '--seconds', 1, '--parallel', 1], { wrap })
    if (!result.ok) throw new MeshError('COMMAND_FAILED', `connections on loopback failed: ${JSON.stringify(result.failures)}`)
    return result
  }
  let round = 0
  const pairs = await inTurns(bench.hookRounds, connect, async () => {
    bench.progress(`hooks, round ${++round} of ${bench.hookRounds}`)
    const redirection = Redirection.open({ instance, nodeNetns, verifierLog: join(tmpdir(), `${instance}-verifier.log`), logger: silentLogger })
    const program = programOf(redirection)
    try {
      if (!attachedHooks().includes(program)) throw new MeshError('COMMAND_FAILED', 'the hooks are not attached, so there is nothing to compare')
      return await connect()
    } finally {
      redirection.close()
      Redirection.remove(instance)
      // The kernel detaches in its own time; the other side must not run before.
      await eventually('the hooks are detached', async () => !attachedHooks().includes(program))
    }
  })
  return [
    compare('hooks', 'not enrolled: connect, request, close on loopback', '1/s', pairs, ({ perSecond }) => perSecond),
    compare('hooks', 'not enrolled: the same, one connection, p50', 'µs', pairs, ({ us }) => us.p50),
  ]
}

async function startPod(): Promise<LocalMesh> {
  const mesh = await LocalMesh.start({ name: uniqueName('bench'), nodes: 1, mesh: false, manifests: podYaml('plain'), logger: silentLogger })
  try {
    await mesh.waitReady()
    return mesh
  } catch (error) {
    await mesh.stop(0)
    throw error
  }
}

/** Id of the program that an instance attached to connect(). */
function programOf(redirection: Redirection): number {
  const link = redirection.pins.get('links/redirect_connect4')
  if (!link) throw new MeshError('NOT_FOUND', 'the hook on connect() is not pinned')
  try {
    return native().linkInfo(link).programId
  } finally {
    link.close()
  }
}

/** Ids of everybody's programs on the root of the cgroups. */
export function attachedHooks(): number[] {
  return native().cgroupPrograms(findCgroup2()).map(({ id }) => id)
}
