import { expect, test } from 'vitest'
import { silentLogger } from '../../core/log.ts'
import type { KubeObject } from '../../kube/api.ts'
import type { WatchApi } from '../../kube/client.ts'
import { OwnedObjects } from './owned-objects.ts'

const service = (resourceVersion: string, ip?: string, uid = 'u'): KubeObject => ({
  apiVersion: 'v1', kind: 'Service', metadata: { name: 'edge', namespace: 'shop', uid, resourceVersion }, spec: { type: 'LoadBalancer' },
  status: { loadBalancer: ip === undefined ? {} : { ingress: [{ ip }] } },
})

test('an answer that comes after a watch told of later changes takes nothing back', () => {
  const owned = new OwnedObjects({} as WatchApi, silentLogger, () => undefined)
  const address = (): unknown => owned.get('Service', 'shop/edge')?.service?.addresses
  owned.put('Service', 'shop/edge', service('99', undefined))
  owned.put('Service', 'shop/edge', service('101', '10.0.0.1'))
  expect(owned.put('Service', 'shop/edge', service('100', undefined)).service?.hasAddress).toBe(false)
  expect(address()).toEqual([{ type: 'IPAddress', value: '10.0.0.1' }])
  // Made anew under the same name, it may count from anywhere.
  owned.put('Service', 'shop/edge', service('7', undefined, 'v'))
  expect(address()).toEqual([])
})
