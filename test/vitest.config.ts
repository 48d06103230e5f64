import { defineConfig } from 'vitest/config';
import { SummaryReporter } from './summary-reporter.js';

const summaryFile = process.env.SLUICE_TEST_SUMMARY;

const common = {
  pool: 'forks' as const,
  testTimeout: 60_000,
  hookTimeout: 60_000,
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
          exclude: ['unit/**', 'dist/**', '**/node_modules/**'],
          // Freezes and timings of one file would disturb those of another.
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
