/** The list of steps in the documentation is the one that the native part has. */
import { readFileSync } from 'node:fs';
import { addon } from '@sluice/native';
import { expect, it } from 'vitest';

it('docs/safety.md lists every step, in order', () => {
  const text = readFileSync(new URL('../../../docs/safety.md', import.meta.url), 'utf8');
  const listed = [...text.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, name]) => name);
  expect(listed).toEqual(Object.keys(addon.stepCounts()));
});

it('a step that is none is refused', () => {
  expect(() => addon.watchSteps('nowhere', 1)).toThrow(/there is no step nowhere/);
});
