// One end of a pair of proxies: what it is given, whoever it is.
import type { SocketAddr } from '../../../src/core/address.ts'
import type { CredentialFiles, Role } from './credentials.ts'

export interface EndPlan {
  readonly role: Role
  readonly files: CredentialFiles
  readonly listen: SocketAddr
  /** The client's: the server's end. The server's: the application. */
  readonly to: SocketAddr
  /** The application; what a CONNECT names. */
  readonly target: SocketAddr
}
