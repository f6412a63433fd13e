// Three kinds of tests. `unit` runs beside the code, in parallel, anywhere. `netns` makes namespaces, loads eBPF programs
// and attaches hooks: it needs root, and its files run one after the other because timing and counters are what they test.
// `kube` does the same on a Kubernetes cluster that comes up with the first of its files and is shared by all of them.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    pool: 'forks',
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'tools/**/*.test.ts'],
          testTimeout: 20_000,
          // Starts after the unit tests have left both processors to it.
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'netns',
          globalSetup: ['test/helpers/leave-nothing.ts'],
          include: ['test/**/*.test.ts'],
          exclude: ['test/kube/**', 'test/conformance/**'],
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'kube',
          globalSetup: ['test/helpers/leave-nothing.ts', 'test/kube/global-setup.ts'],
          include: ['test/kube/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 300_000,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
