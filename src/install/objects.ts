// All objects that an installation consists of, in the order in which they are applied, in groups that a value turns on and off. The
// one source of `sidestep install`, of deploy/manifests and of the Helm chart. Pure: the same values give the same objects.
//
// The chart is made by handing placeholders in for the values (tools/helm-template.ts). So nothing here, nor in what this calls, may
// branch on a value, compare it or take it apart: what is optional is a group.
import type { InstallObject } from './common.ts'
import { controlPlaneObjects } from './control-plane.ts'
import { gatewayClasses } from './gateway-classes.ts'
import { alertObjects, dashboardObjects, podMonitors } from './monitoring.ts'
import { namespaceObject } from './namespace.ts'
import { networkPolicies } from './network-policies.ts'
import { controlPlaneRoles, nodeRoles } from './roles.ts'
import type { InstallValues } from './values.ts'
import { ztunnelObjects } from './ztunnel.ts'

export interface InstallGroup {
  /** A file of the chart. */
  readonly name: string
  /** The value that turns it on; without it, always. */
  readonly when?: (values: InstallValues) => boolean
  readonly objects: (values: InstallValues) => readonly InstallObject[]
}

/** What is generated elsewhere, and read from files by who installs. */
export interface InstallFiles {
  /** deploy/crds */
  readonly crds: readonly InstallObject[]
  /** deploy/admission */
  readonly admission: readonly InstallObject[]
}

/** In the order in which they are applied; the reverse is that of removal. */
export function installGroups(files: InstallFiles): readonly InstallGroup[] {
  return [
    { name: 'namespace', objects: namespaceObject },
    { name: 'crds', when: ({ crds }) => crds.install, objects: () => files.crds },
    { name: 'roles', objects: (values) => [...controlPlaneRoles(values), ...nodeRoles(values)] },
    { name: 'network-policies', when: (values) => values.networkPolicies.install, objects: networkPolicies },
    { name: 'controlplane', objects: controlPlaneObjects },
    { name: 'ztunnel', objects: ztunnelObjects },
    { name: 'gateway-classes', when: (values) => values.gatewayClasses.install, objects: gatewayClasses },
    { name: 'admission', when: ({ admission }) => admission.install, objects: () => files.admission },
    { name: 'pod-monitors', when: ({ monitoring }) => monitoring.podMonitors, objects: podMonitors },
    { name: 'alerts', when: ({ monitoring }) => monitoring.alerts, objects: alertObjects },
    { name: 'dashboards', when: ({ monitoring }) => monitoring.dashboards, objects: dashboardObjects },
  ]
}

export function installObjects(values: InstallValues, files: InstallFiles): InstallObject[] {
  return installGroups(files).flatMap(({ when, objects }) => (when === undefined || when(values) ? objects(values) : []))
}
