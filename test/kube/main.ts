// The test cluster by hand: `npm run cluster -- up|down|status|kubeconfig|enter|load|kubectl`. Its number is SIDESTEP_CLUSTER, 0 unless told.
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { MeshError } from '../../src/core/errors.ts'
import { Cluster, clusterInstances, removeAbandoned, removeCluster } from './cluster.ts'
import { lastInstance } from './addresses.ts'
import type { ProxyMode } from './node.ts'

const usage = `usage: npm run cluster -- COMMAND      (SIDESTEP_CLUSTER=0..${lastInstance} says which one)
  up [--nodes N] [--proxy-mode iptables|nftables|ipvs] [--load IMAGE.tar]...
  down [--all]                end it and remove everything of it
  status                      nodes and pods of the clusters that are up
  kubeconfig                  the path, for export KUBECONFIG=$(npm run --silent cluster -- kubeconfig)
  kubectl ARGS...             the kubectl of its version
  enter NODE COMMAND...       run something as root on node-a, node-b or control
  load IMAGE.tar...           import images on all nodes
  kill NODE, boot NODE        power off without a word, and on again
  restart apiserver|NODE      the API server, or the kubelet of a node`

const instance = Number(process.env['SIDESTEP_CLUSTER'] ?? 0)
const say = (line: string): void => console.error(line)

async function main(command: string | undefined, args: string[]): Promise<number> {
  switch (command) {
    case undefined:
    case 'up': {
      const { values } = parseArgs({ args, options: { nodes: { type: 'string', default: '2' }, 'proxy-mode': { type: 'string', default: 'iptables' }, load: { type: 'string', multiple: true, default: [] } } })
      const cluster = await Cluster.up({ instance, nodes: Number(values.nodes), proxyMode: values['proxy-mode'] as ProxyMode, images: values.load.map((path) => resolve(path)), say })
      console.log(`export KUBECONFIG=${cluster.kubeconfig}\nexport PATH=${resolve(cluster.kubectlPath, '..')}:$PATH`)
      return 0
    }
    case 'down':
      for (const each of args[0] === '--all' ? clusterInstances() : [instance]) await removeCluster(each)
      await removeAbandoned(say)
      return 0
    case 'status':
      for (const each of clusterInstances()) {
        const cluster = await Cluster.open(each)
        console.log(`cluster ${each}: ${cluster.kubeconfig}\n${(await cluster.tryKubectl(['get', 'nodes,pods', '-A', '-o', 'wide', '--request-timeout=5s'])).stdout}`)
      }
      return 0
    case 'kubeconfig':
      console.log((await Cluster.open(instance)).kubeconfig)
      return 0
    case 'kubectl': {
      const cluster = await Cluster.open(instance)
      return attached([cluster.kubectlPath, '--kubeconfig', cluster.kubeconfig, ...args])
    }
    case 'enter': {
      const cluster = await Cluster.open(instance)
      const [name = '', ...argv] = args
      return attached((name === 'control' ? cluster.control.machine : cluster.node(name).machine).entering(argv.length > 0 ? argv : ['bash']))
    }
    case 'load':
      await (await Cluster.open(instance)).load(args.map((path) => resolve(path)))
      return 0
    case 'kill':
      await (await Cluster.open(instance)).node(args[0] ?? '').kill()
      return 0
    case 'boot':
      await (await Cluster.open(instance)).startNode(args[0] ?? '')
      return 0
    case 'restart': {
      const cluster = await Cluster.open(instance)
      await (args[0] === 'apiserver' ? cluster.control.restartApiServer() : cluster.node(args[0] ?? '').restartKubelet())
      return 0
    }
    default:
      console.error(usage)
      return 2
  }
}

function attached(argv: readonly string[]): number {
  const [file = '', ...args] = argv
  return spawnSync(file, args, { stdio: 'inherit' }).status ?? 1
}

try {
  process.exitCode = await main(process.argv[2], process.argv.slice(3))
} catch (error) {
  console.error(error instanceof MeshError ? `cluster: ${error.message}` : error)
  process.exitCode = 1
}
