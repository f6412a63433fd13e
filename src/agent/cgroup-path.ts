// Whose pod a process belongs to, by the cgroup that the kubelet put it into: the text of /proc/PID/cgroup. A pod can make cgroups
// below its own and call them as it likes, so only the outermost name counts. Whoever is not sure gets no answer.

const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
const uuidUnderscored = uuid.replaceAll('-[', '_[')
/** Of pods that the kubelet reads from files. */
const hash = '[0-9a-f]{32}'

/** `pod<uid>`, below `kubepods` or one of its classes of service. */
const cgroupfs = new RegExp(`^pod(${uuid}|${hash})$`)
/** `kubepods-burstable-pod<uid>.slice`, with underscores; a prefix where the kubelet has a root of its own. */
const systemd = new RegExp(`^(?:[a-z0-9_]+-)*kubepods(?:-burstable|-besteffort)?-pod(${uuidUnderscored}|${hash})\\.slice$`)

const longestPath = 4096
const mostLines = 64

/**
 * The pod's uid, as the kubelet knows it; undefined for a process of no pod, and where the hierarchies of cgroup v1 name different pods.
 * Paths may begin with `/../..`: seen from a cgroup namespace, what is above it has no names.
 */
export function podOfCgroup(text: string): string | undefined {
  let found: string | undefined
  for (const line of text.split('\n', mostLines)) {
    const path = /^\d+:[^:]*:(\/.*)$/.exec(line)?.[1]
    if (path === undefined || path.length > longestPath) continue
    const uid = podOfPath(path)
    if (uid === undefined) continue
    if (found !== undefined && found !== uid) return undefined
    found = uid
  }
  return found
}

function podOfPath(path: string): string | undefined {
  for (const name of path.split('/')) {
    const uid = cgroupfs.exec(name)?.[1] ?? systemd.exec(name)?.[1]?.replaceAll('_', '-')
    if (uid !== undefined) return uid
  }
  return undefined
}
