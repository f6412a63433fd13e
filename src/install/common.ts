// What objects of ours have in common: labels, the image, environment variables. Branches on no value (see objects.ts).
import { programs } from '../model/kubernetes-names.ts'
import type { InstallValues } from './values.ts'

export type Json = Readonly<Record<string, unknown>>

/** An object of the API as it is applied. */
export interface InstallObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly labels?: Readonly<Record<string, string>>
    readonly annotations?: Readonly<Record<string, string>>
  }
  readonly [field: string]: unknown
}

/** Of everything that is ours, so that it can be found again. */
export const ownLabels = { 'app.kubernetes.io/name': 'sidestep', 'app.kubernetes.io/part-of': 'sidestep' } as const

/** Of the pods of one part, and what selects them. */
export function partLabels(part: string): Readonly<Record<string, string>> {
  return { app: part }
}

export function labelsOf(part: string): Readonly<Record<string, string>> {
  return { ...ownLabels, 'app.kubernetes.io/component': part }
}

export function imageOf({ image }: InstallValues): string {
  return `${image.repository}:${image.tag}`
}

/** What all containers of ours have. */
export function container(values: InstallValues, name: string, program: keyof typeof programs): Json {
  return { name, image: imageOf(values), imagePullPolicy: values.image.pullPolicy, command: [programs[program]] }
}

/** A text of whatever the value is. */
export function variable(name: string, value: string | number | boolean): Json {
  return { name, value: `${value}` }
}

export function fromField(name: string, fieldPath: string): Json {
  return { name, valueFrom: { fieldRef: { fieldPath } } }
}

/** Settings that somebody added, in the order of their names. */
export function variables(settings: Readonly<Record<string, string>>): Json[] {
  return Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => variable(name, value))
}

/** So that Prometheus finds the pod without an operator. */
export function scrapeAnnotations(port: number): Readonly<Record<string, string>> {
  return { 'prometheus.io/scrape': 'true', 'prometheus.io/port': `${port}`, 'prometheus.io/path': '/metrics' }
}

/** How objects are written as YAML: as readers of YAML 1.1, which those of Kubernetes are, take it for the same. */
export const yamlStyle = { lineWidth: 0, aliasDuplicateObjects: false, version: '1.1' } as const
