import { inspectSystem } from '@sluice/core';

/** What `tracker: 'auto'` takes here. */
export function bestTracker(): 'uffd-wp' | 'soft-dirty' | 'none' {
  const { detail } = inspectSystem().checks.find(({ name }) => name === 'tracker') ?? {};
  const [name] = detail?.split(';') ?? [];
  if (name !== 'uffd-wp' && name !== 'soft-dirty' && name !== 'none') {
    throw new Error(`No tracker is called ${name}`);
  }
  return name;
}
