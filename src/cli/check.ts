// `sidestep check`: what this kernel and host offer, row by row, and what to do where something is missing. Prints what it
// is handed; it never looks at the machine itself.
import { Command, Option } from 'commander'
import type { Feature, FeatureStatus } from '../model/feature.ts'
import { isUsable } from '../model/feature.ts'

/** `survey` reads the machine; bin has it from the kernel room. A fail sets the exit code to 1. */
export function checkCommand(survey: () => Promise<readonly Feature[]>, print: (text: string) => void = console.log): Command {
  return new Command('check')
    .description('show what this kernel and host offer, and what to do where something is missing')
    .addOption(new Option('-o, --output <form>', 'how to show it').choices(['table', 'json']).default('table'))
    .addHelpText('after', '\nThe exit code is 1 where something is missing without which Sidestep cannot run.\n\nExample:\n  sidestep check -o json')
    .action(async ({ output }: { output: 'table' | 'json' }) => {
      const features = await survey()
      const ok = isUsable(features)
      print(output === 'json' ? JSON.stringify({ ok, features }, null, 2) : featureTable(features))
      if (!ok) process.exitCode = 1
    })
}

/** The table with a summary below; a row that did not pass has its remedy under it. */
export function featureTable(features: readonly Feature[]): string {
  const nameWidth = Math.max(...features.map((feature) => feature.name.length))
  const foundWidth = Math.min(44, Math.max(...features.map((feature) => feature.found.length)))
  const lines = features.flatMap(({ name, status, found, why, fix }) => {
    const line = `${status.padEnd(4)}  ${name.padEnd(nameWidth)}  ${found.padEnd(foundWidth)}  ${why}`
    return fix === undefined ? [line] : [line, `${' '.repeat(nameWidth + 8)}-> ${fix}`]
  })
  return [...lines, '', summary(features)].join('\n')
}

function summary(features: readonly Feature[]): string {
  const count = (status: FeatureStatus): number => features.filter((feature) => feature.status === status).length
  const verdict = isUsable(features) ? 'Sidestep can run here.' : 'Sidestep cannot run here.'
  return `${count('pass')} pass, ${count('warn')} warn, ${count('fail')} fail. ${verdict}`
}
