import { defineConfig } from 'vitest/config';
import { scaledMs } from './harness/time.js';
import { SummaryReporter } from './summary-reporter.js';

const summaryFile = process.env.SLUICE_TEST_SUMMARY;

const common = {
  pool: 'forks' as const,
  // Longer than waits for a hang, which say what they wait for.
  testTimeout: scaledMs(180_000),
  hookTimeout: scaledMs(60_000),
  // The packages are tested as they are built: Node loads them, not Vite.
  server: { deps: { external: [/\/packages\/[^/]+\/dist\//] } },
};

export default defineConfig({
  test: {
    passWithNoTests: true,
    reporters: ['default', ...(summaryFile ? [new SummaryReporter(summaryFile)] : [])],
    projects: [
      {
        test: { ...common, name: 'unit', include: ['unit/**/*.test.ts'] },
      },
      {
        test: {
          ...common,
          name: 'e2e',
          include: ['**/*.test.ts'],
          exclude: ['unit/**', 'vm/**', 'storm/**', 'dist/**', '**/node_modules/**'],
          // Freezes and timings of one file would disturb those of another.
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          ...common,
          name: 'storm',
          include: ['storm/**/*.test.ts'],
          sequence: { groupOrder: 3 },
        },
      },
      {
        // For the virtual machine that scripts/test.mjs starts.
        test: {
          ...common,
          name: 'vm',
          include: ['vm/**/*.test.ts', 'e2e/rounds.test.ts'],
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
