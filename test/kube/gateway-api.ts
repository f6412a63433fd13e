// Gateway API's kinds as its Go module brings them, for clusters that have none.
import { join } from 'node:path'
import { moduleDirectory } from '../conformance/images.ts'

/** Directory of the manifests, experimental channel, for `sidestep install --gateway-api-crds`. */
export async function gatewayApiCrds(): Promise<string> {
  return join(await moduleDirectory('sigs.k8s.io/gateway-api'), 'config/crd/experimental')
}
