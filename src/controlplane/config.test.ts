// The table of settings: every wrong one is named, and what contradicts another is found before anything is started.
import { describe, expect, test } from 'vitest'
import { configSchema, hostAndPort, listOf, readConfig, readsIstioLabels, variables } from './config.ts'

const good = { SIDESTEP_CONFIG_DIRECTORY: '/etc/mesh' }

describe('settings of the control plane', () => {
  test('come from variables that are named after them, frozen, with defaults', () => {
    const config = readConfig({ ...good, SIDESTEP_TOKEN_TTL_SECONDS: '60', PATH: '/bin', SIDESTEP_CRL_FILE: '' })
    expect(config).toMatchObject({ configDirectory: '/etc/mesh', tokenTtlSeconds: 60, listenAddress: '[::]:15012', metricsAddress: '[::]:15014', crlFile: '' })
    expect(Object.isFrozen(config)).toBe(true)
    expect(variables.certificateMaxTtlSeconds).toBe('SIDESTEP_CERTIFICATE_MAX_TTL_SECONDS')
  })

  test('each have a sentence and a default', () => {
    for (const field of Object.values(configSchema.shape)) expect(field.description).toMatch(/^\S.*\.$/)
    expect(() => configSchema.parse({})).not.toThrow()
  })

  test.each<[string, Record<string, string>, RegExp]>([
    ['nothing to read', { SIDESTEP_CONFIG_DIRECTORY: '' }, /SIDESTEP_CONFIG_DIRECTORY: is missing/],
    ['a misspelt one', { SIDESTEP_CONFIG_DIR: '/x' }, /SIDESTEP_CONFIG_DIR is not a setting/],
    ['no port', { SIDESTEP_LISTEN_ADDRESS: 'localhost' }, /SIDESTEP_LISTEN_ADDRESS: must be HOST:PORT/],
    ['two mistakes', { SIDESTEP_LOG_LEVEL: 'loud', SIDESTEP_TOKEN_TTL_SECONDS: '1' }, /(TOKEN_TTL.*LOG_LEVEL|LOG_LEVEL.*TOKEN_TTL)/],
    ['a default above the most', { SIDESTEP_CERTIFICATE_MAX_TTL_SECONDS: '60' }, /SIDESTEP_CERTIFICATE_TTL_SECONDS: is above/],
    ['half an intermediate', { SIDESTEP_CA_KEY_FILE: '/k' }, /go together/],
    ['a node that would write elsewhere', { SIDESTEP_NODES: 'a,../b', SIDESTEP_TOKEN_DIRECTORY: '/t' }, /"..\/b" is no name for a node/],
    ['nodes without a place', { SIDESTEP_NODES: 'a' }, /needs SIDESTEP_TOKEN_DIRECTORY/],
    ['a directory beside Kubernetes', { SIDESTEP_SOURCE: 'kubernetes' }, /SIDESTEP_CONFIG_DIRECTORY: means nothing with SIDESTEP_SOURCE=kubernetes/],
    ['a source that is none', { SIDESTEP_SOURCE: 'etcd' }, /SIDESTEP_SOURCE/],
    ['a trust domain that is none', { SIDESTEP_TRUST_DOMAIN_ALIASES: 'old.local,Old' }, /"Old" is no trust domain/],
  ])('with %s are refused', (_what, more, message) => {
    expect(() => readConfig({ ...good, ...more })).toThrow(expect.objectContaining({ code: 'BAD_CONFIG', message: expect.stringMatching(message) }))
  })

  test('for Kubernetes need no directory', () => {
    expect(readConfig({ SIDESTEP_SOURCE: 'kubernetes' })).toMatchObject({ source: 'kubernetes', podNamespace: 'sidestep-system', istioLabels: '' })
    expect(readsIstioLabels(readConfig({ SIDESTEP_SOURCE: 'kubernetes' }))).toBe(false)
    expect(readsIstioLabels(readConfig({ SIDESTEP_SOURCE: 'kubernetes', SIDESTEP_ISTIO_LABELS: 'true' }))).toBe(true)
    expect(readsIstioLabels(readConfig(good))).toBe(true)
  })

  test('lists and addresses', () => {
    expect(listOf(' a, b ,,c')).toEqual(['a', 'b', 'c'])
    expect(hostAndPort('[::1]:15012')).toEqual({ host: '::1', port: 15_012 })
    expect(hostAndPort('10.0.0.1:1')).toEqual({ host: '10.0.0.1', port: 1 })
  })
})
