/** What a restore leaves as it is now, though the image has it otherwise. */
import { isDeepStrictEqual } from 'node:util';
import type { ManifestState } from '../image/manifest.js';

const NAMES = {
  userIds: 'users',
  groupIds: 'groups',
  supplementaryGroups: 'supplementary groups',
  capabilities: 'capabilities',
  noNewPrivileges: 'no_new_privs',
  seccompMode: 'seccomp mode',
  limits: 'limits',
  nice: 'nice value',
  umask: 'umask',
  processGroup: 'process group',
  sessionLeader: 'session',
  workingDirectory: 'working directory',
  root: 'root directory',
  pendingSignals: 'pending signals',
} as const satisfies Partial<Record<keyof ManifestState, string>>;

/** Notes for people; none where all is as it was. `now`: null if it is not known. */
export function stateWarnings(then: ManifestState, now: ManifestState | null): string[] {
  const warnings: string[] = [];
  if (now !== null) {
    const changed = Object.entries(NAMES)
      .map(([key, name]) => ({ key: key as keyof typeof NAMES, name }))
      .filter(({ key }) => !isDeepStrictEqual(then[key], now[key]));
    if (changed.length > 0) {
      warnings.push(
        `Changed since the dump and left as it is now: ${changed.map(({ name }) => name).join(', ')}`,
      );
    }
  }
  if (then.signalActions === null) {
    warnings.push('The image does not tell how signals were handled; that is left as it is now');
  }
  return warnings;
}
