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
  return [...featureRows(features), '', summary(features, 'Sidestep can run here.', 'Sidestep cannot run here.')].join('\n')
}

/** A line for each, and one more with the remedy for each that did not pass. */
export function featureRows(features: readonly Feature[]): string[] {
  const nameWidth = Math.max(...features.map((feature) => feature.name.length))
  const foundWidth = Math.min(44, Math.max(...features.map((feature) => feature.found.length)))
  return features.flatMap(({ name, status, found, why, fix }) => {
    const line = `${status.padEnd(4)}  ${name.padEnd(nameWidth)}  ${found.padEnd(foundWidth)}  ${why}`
    return fix === undefined ? [line] : [line, `${' '.repeat(nameWidth + 8)}-> ${fix}`]
  })
}

/** How many are how, and what follows. */
export function summary(features: readonly Feature[], good: string, bad: string): string {
  const count = (status: FeatureStatus): number => features.filter((feature) => feature.status === status).length
  return `${count('pass')} pass, ${count('warn')} warn, ${count('fail')} fail. ${isUsable(features) ? good : bad}`
}
