// `sidestep egress list`: what each namespace was seen talking to outside the mesh, as all ztunnels and waypoints learned it, for
// people or as the ServiceEntries that would allow it. Pods chose most of those words; they are printed as text only.
import { Command } from 'commander'
import { z } from 'zod'
import { learnedViewSchema } from '../model/ztunnel-views.ts'
import type { LearnedView } from '../model/ztunnel-views.ts'
import { ApiClient } from './api-client.ts'
import { entriesText } from './egress-entries.ts'
import { durationText, outputOption, show, standardOutput } from './output.ts'
import type { Output, OutputForm } from './output.ts'
import { askZtunnel } from './ztunnel-client.ts'
import { addTargetOptions, askEach, targetsOf } from './ztunnel-targets.ts'
import type { Target, TargetOptions } from './ztunnel-targets.ts'

interface ListOptions extends TargetOptions {
  readonly output: OutputForm
  readonly namespace?: string
  readonly serviceEntries?: boolean
}

export function egressCommand(output: Output = standardOutput, now: () => number = Date.now): Command {
  return new Command('egress').description('questions about what leaves the mesh').addCommand(listCommand(output, now))
}

function listCommand(output: Output, now: () => number): Command {
  return addTargetOptions(new Command('list').description('show what namespaces were seen talking to outside the mesh'))
    .option('-n, --namespace <namespace>', 'only what this namespace talked to')
    .option('--service-entries', 'print the ServiceEntries that would allow exactly that, denied ones included')
    .addOption(outputOption())
    .addHelpText('after', '\nExamples:\n  sidestep egress list -n shop\n  sidestep egress list -n shop --service-entries > entries.yaml')
    .action(async (options: ListOptions) => {
      const answers = await askEach(await proxiesOf(options), ({ address }) => askZtunnel(address, z.array(learnedViewSchema), '/egress'), output.warn)
      const seen = merged(answers.flatMap(({ answer }) => answer)).filter(({ namespace }) => options.namespace === undefined || namespace === options.namespace)
      if (options.serviceEntries === true) {
        output.print(entriesText(seen))
        return
      }
      output.print(show(
        options.output, seen, ['NAMESPACE', 'DESTINATION', 'PORT', 'PROTOCOL', 'COUNT', 'FIRST SEEN', 'LAST SEEN', 'VERDICT', 'SERVICE ACCOUNT'],
        seen.map(({ namespace, host, address, port, protocol, count, firstSeen, lastSeen, verdict, serviceAccount }) => [
          namespace, host ?? address ?? '-', `${port}`, protocol, `${count}`, agoText(firstSeen, now()), agoText(lastSeen, now()), verdict, serviceAccount,
        ]), 'nothing was seen to leave the mesh',
      ))
    })
}

/** Ztunnels and waypoints; those of a node alone, where one is named. */
async function proxiesOf(options: ListOptions): Promise<readonly Target[]> {
  const ztunnels = await targetsOf(options)
  if (options.admin !== undefined || options.node !== undefined) return ztunnels
  const { gateways } = await new ApiClient(options.name).status()
  const waypoints = gateways.filter(({ role }) => role === 'waypoint').flatMap(({ admin }) => admin.map(({ pod, socket }) => ({ node: pod, address: socket })))
  return [...ztunnels, ...waypoints]
}

/** One for each destination of a namespace, with the last word about it; those of a namespace together. */
export function merged(seen: readonly LearnedView[]): LearnedView[] {
  const found = new Map<string, LearnedView>()
  for (const each of seen) {
    const key = `${each.namespace} ${each.host ?? each.address ?? ''} ${String(each.port).padStart(5)}`
    const other = found.get(key)
    const last = other && Date.parse(other.lastSeen) > Date.parse(each.lastSeen) ? other : each
    found.set(key, other ? {
      ...last, count: other.count + each.count, firstSeen: Date.parse(other.firstSeen) < Date.parse(each.firstSeen) ? other.firstSeen : each.firstSeen,
    } : each)
  }
  return [...found].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, each]) => each)
}

function agoText(time: string, now: number): string {
  return `${durationText(Math.max(0, now - Date.parse(time)))} ago`
}
