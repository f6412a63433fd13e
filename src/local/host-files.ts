// Files of this machine that pods are given.
import { readFileSync } from 'node:fs'
import { describeError } from '../core/errors.ts'

export function hostResolvConf(): string {
  try {
    return readFileSync('/etc/resolv.conf', 'utf8')
  } catch (error) {
    // A machine without one resolves nothing; a pod with dnsPolicy Default shall see just that.
    return `# ${describeError(error)}\n`
  }
}
