/**
 * Writes what scripts/test.mjs sums up: counts, and each skipped test with its reason, which Vitest's
 * own JSON reporter leaves out.
 */
import { writeFileSync } from 'node:fs';
import type { Reporter, SerializedError, TestModule } from 'vitest/node';

export class SummaryReporter implements Reporter {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    let passed = 0;
    // A file that does not load, or a hook outside any test that throws, fails without a failed test.
    let failed = unhandled.length;
    const skips: { name: string; reason: string }[] = [];
    for (const module of modules) {
      failed += module.errors().length;
      for (const suite of module.children.allSuites()) failed += suite.errors().length;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') passed += 1;
        else if (result.state === 'skipped') {
          skips.push({ name: test.fullName, reason: result.note ?? 'no reason given' });
        } else failed += 1;
      }
    }
    writeFileSync(this.#file, JSON.stringify({ passed, failed, skips }));
  }
}
