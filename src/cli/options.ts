// Options that several commands share, so that they are spelled and explained once.
import { Option } from 'commander'

export function nameOption(): Option {
  return new Option('--name <name>', 'which local mesh; several may run side by side').default('local')
}
