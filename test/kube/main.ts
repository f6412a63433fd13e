// The test cluster by hand: `npm run cluster -- up|down|status|kubeconfig|enter|load|kubectl`. Its number is SIDESTEP_CLUSTER, 0 unless told.
import { spawnSync } from 'node:child_process'
import { dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { checkout } from '../../deploy/image/contents.ts'
import { MeshError } from '../../src/core/errors.ts'
import { Cluster, clusterInstances, removeAbandoned, removeCluster } from './cluster.ts'
import { lastInstance } from './addresses.ts'
import { appImage, appReference } from './app-image.ts'
import { gatewayApiCrds } from './gateway-api.ts'
import { proxyModes } from './node.ts'
import { productImage, productRepository, productTags } from './product-image.ts'

const usage = `usage: npm run cluster -- COMMAND      (SIDESTEP_CLUSTER=0..${lastInstance} says which one)
  up [--bare] [--nodes N] [--proxy-mode iptables|nftables|ipvs] [--load IMAGE.tar]...
                              with Sidestep installed, unless --bare
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
    case 'up':
      return up(args)
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

async function up(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args, options: {
      'bare': { type: 'boolean', default: false }, 'nodes': { type: 'string', default: '2' }, 'load': { type: 'string', multiple: true, default: [] },
      'proxy-mode': { type: 'string', default: 'iptables' },
    },
  })
  const mode = proxyModes.find((each) => each === values['proxy-mode'])
  if (!mode) throw new MeshError('BAD_CONFIG', `--proxy-mode is one of ${proxyModes.join(', ')}`)
  const images = [await appImage(), ...values.bare ? [] : [await productImage(say)], ...values.load.map((path) => resolve(path))]
  const cluster = await Cluster.up({ instance, nodes: Number(values.nodes), proxyMode: mode, images, say })
  if (!values.bare) {
    const install = ['install', '--set', `image.repository=${productRepository}`, '--set', `image.tag=${productTags[0]}`, '--gateway-api-crds', await gatewayApiCrds()]
    if (attached([process.execPath, join(checkout, 'src/bin/sidestep.ts'), ...install, '--kubeconfig', cluster.kubeconfig]) !== 0) return 1
  }
  console.error(`
The cluster is up; \`npm run cluster -- down\` ends it. Images of your own: \`npm run cluster -- load IMAGE.tar\`. To try:
  kubectl create namespace shop && kubectl label namespace shop sidestep.dev/mesh=enabled
  kubectl -n shop run client --image=${appReference}
  npm run cluster -- enter node-a tcpdump -ni eth0 port 15008
`)
  console.log(`export KUBECONFIG=${cluster.kubeconfig}\nexport PATH=${dirname(cluster.kubectlPath)}:$PATH`)
  return 0
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
