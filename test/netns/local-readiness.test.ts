// A local mesh says that it is ready when it serves, not when its pods merely run: a ztunnel that captures pods before it knows
// the mesh answers their first questions with failures.
import { expect, test } from 'vitest'
import { meshed, world } from '../helpers/world.ts'

test('a mesh whose ztunnels do not know it yet is not ready, and says which', async () => {
  const mesh = await world().namespace('shop', meshed).pod('client', { namespace: 'shop' }).launch({ ztunnelEnvironment: { SIDESTEP_XDS_ADDRESS: '127.0.0.1:1' } })
  try {
    await mesh.waitUntil(() => mesh.status().pods.some(({ ready, captured }) => ready && captured === 'yes'), 20_000)
    await expect(mesh.waitReady(1_000)).rejects.toThrow(/the ztunnel of node-a is not ready/)
    expect(mesh.isReady).toBe(false)
  } finally {
    await mesh.stop(100)
  }
})
