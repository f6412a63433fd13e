// `sidestep connections`, `certs` and `log-level`: what the ztunnels carry, who they can prove to be, and how much they say.
import { Argument, Command, Option } from 'commander'
import { z } from 'zod'
import { certificateViewSchema, connectionViewSchema, logLevels, logLevelsSchema } from '../model/ztunnel-views.ts'
import type { CertificateView, ConnectionView } from '../model/ztunnel-views.ts'
import { bytesText, durationText, outputOption, show, standardOutput } from './output.ts'
import type { Output, OutputForm } from './output.ts'
import { askZtunnel } from './ztunnel-client.ts'
import { addTargetOptions, askEach, targetsOf } from './ztunnel-targets.ts'
import type { TargetOptions } from './ztunnel-targets.ts'

interface ListOptions extends TargetOptions {
  readonly output: OutputForm
  readonly namespace?: string
}

export function connectionsCommand(output: Output = standardOutput): Command {
  return addTargetOptions(new Command('connections').description('show the connections that the ztunnels carry now'))
    .option('-n, --namespace <namespace>', 'only those from or to this namespace')
    .addOption(new Option('--direction <direction>', 'only these: a connection between two captured pods is listed on both sides').choices(['outbound', 'inbound']))
    .addOption(outputOption())
    .addHelpText('after', '\nExamples:\n  sidestep connections -n shop --direction outbound\n  sidestep connections --admin http://127.0.0.1:15000')
    .action(async (options: ListOptions & { direction?: string }) => {
      const answers = await askEach(await targetsOf(options), ({ address }) => askZtunnel(address, z.array(connectionViewSchema), '/connections'), output.warn)
      const shown = answers.flatMap(({ target, answer }) => answer.filter((each) => isWanted(each, options)).map((each) => ({ node: target.node, ...each })))
      shown.sort((a, b) => `${a.node} ${a.pod}`.localeCompare(`${b.node} ${b.pod}`) || a.ageMs - b.ageMs)
      output.print(show(
        options.output, shown, ['NODE', 'DIRECTION', 'SOURCE', 'DESTINATION', 'SERVICE', 'PROTOCOL', 'SENT', 'RECEIVED', 'AGE'],
        shown.map(({ node, direction, source, destination, protocol, reused, bytesSent, bytesReceived, ageMs }) => [
          node || '-', direction, endText(source), endText(destination), destination.service ?? 'none', protocol === 'hbone' && reused ? 'hbone, reused' : protocol,
          bytesText(bytesSent), bytesText(bytesReceived), durationText(ageMs),
        ]), 'no connections',
      ))
    })
}

function isWanted({ direction, source, destination, pod }: ConnectionView, wanted: ListOptions & { direction?: string }): boolean {
  if (wanted.direction !== undefined && direction !== wanted.direction) return false
  return wanted.namespace === undefined || [source.namespace, destination.namespace, pod.split('/')[0]].includes(wanted.namespace)
}

function endText({ addr, workload, namespace }: ConnectionView['source']): string {
  return workload === undefined ? addr : `${namespace ?? '?'}/${workload}:${addr.slice(addr.lastIndexOf(':') + 1)}`
}

export function certsCommand(output: Output = standardOutput, now: () => number = Date.now): Command {
  return addTargetOptions(new Command('certs').description('show the identities on the nodes and the state of their certificates'))
    .option('-n, --namespace <namespace>', 'only those of this namespace')
    .addOption(outputOption())
    .addHelpText('after', '\nExample:\n  sidestep certs -o yaml')
    .action(async (options: ListOptions) => {
      const answers = await askEach(await targetsOf(options), ({ address }) => askZtunnel(address, z.array(certificateViewSchema), '/certificates'), output.warn)
      const shown = answers.flatMap(({ target, answer }) => answer.filter(({ identity }) => isOf(identity, options.namespace)).map((each) => ({ node: target.node, ...each })))
      shown.sort((a, b) => `${a.node} ${a.identity}`.localeCompare(`${b.node} ${b.identity}`))
      const until = (time: string): string => (time === '' ? '-' : durationText(Date.parse(time) - now()))
      output.print(show(
        options.output, shown, ['NODE', 'IDENTITY', 'STATE', 'SERIAL', 'EXPIRES IN', 'NEXT REQUEST', 'ROOTS', 'ERROR'],
        shown.map(({ node, identity, state, serial, notAfter, renewAt, roots, error }) => [
          node || '-', identity, state, serial.slice(0, 12) || '-', until(notAfter), until(renewAt), `${roots}`, error,
        ]), 'no certificates',
      ))
    })
}

const isOf = (identity: CertificateView['identity'], namespace: string | undefined): boolean => namespace === undefined || identity.includes(`/ns/${namespace}/`)

export function logLevelCommand(output: Output = standardOutput): Command {
  return addTargetOptions(new Command('log-level').description('show or change how much the ztunnels log, while they run'))
    .addArgument(new Argument('[level]', 'the level to set; without one the levels are shown').choices(logLevels))
    .option('--component <component>', 'only this part of the ztunnel')
    .option('--reset', 'go back to what the ztunnel started with')
    .addOption(outputOption())
    .addHelpText('after', '\nExamples:\n  sidestep log-level\n  sidestep log-level debug --component xds --node node-a\n  sidestep log-level --reset')
    .action(async (level: string | undefined, options: TargetOptions & { output: OutputForm; component?: string; reset?: boolean }) => {
      const query = new URLSearchParams({
        ...(options.reset === true && { reset: '' }), ...(level !== undefined && { level }), ...(options.component !== undefined && { component: options.component }),
      })
      const isChange = options.reset === true || level !== undefined
      const answers = await askEach(
        await targetsOf(options),
        ({ address }) => (isChange ? askZtunnel(address, logLevelsSchema, `/logging?${query}`, 'POST') : askZtunnel(address, logLevelsSchema, '/logging')), output.warn,
      )
      const shown = answers.map(({ target, answer }) => ({ node: target.node, levels: answer }))
      const rows = shown.flatMap(({ node, levels }) => Object.entries(levels)
        .filter(([component]) => isChange || options.component === undefined || component === options.component)
        .map(([component, each]) => [node || '-', component, each]))
      output.print(show(options.output, shown, ['NODE', 'COMPONENT', 'LEVEL'], rows, 'no such component'))
    })
}
