// What is said of a class is what the conformance suite is run for, and the core of its profiles.
import { expect, test } from 'vitest'
import { runs } from '../test/conformance/features.ts'
import { supportedFeatures } from '../src/controlplane/controllers/features.ts'

const core = ['GRPCRoute', 'Gateway', 'HTTPRoute', 'ReferenceGrant', 'TCPRoute', 'TLSRoute']

test.each([['waypoint', runs.mesh], ['ingress', runs.gateway]] as const)('of a %s', (role, { features }) => {
  expect(supportedFeatures[role].filter((name) => !core.includes(name)).toSorted()).toEqual([...features].toSorted())
})
