// DNS of one pod, all of it carried verbatim: what DnsProxy does where nobody tells it the names of the mesh.
import type { Logger } from '../core/log.ts'
import type { Netns } from '../kernel/netns.ts'
import type { Redirection } from '../kernel/redirection.ts'
import { DnsProxy } from './dns-proxy.ts'

export class DnsForwarder extends DnsProxy {
  constructor(netns: Netns, redirection: Redirection, logger: Logger) {
    super({ netns, redirection, resolver: undefined, client: { namespace: '', searchDomains: [] }, logger })
  }
}
