/**
 * Least privilege: what works for an ordinary user and without single capabilities, that nobody else
 * can read what is written, and that nothing of the process is said in logs and errors. The table is
 * in docs/safety.md.
 */
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { exportImage, flattenImage, openImage, writeCore } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { type FaultSpec, withFaults } from '../harness/faults.js';
import { leakCheck } from '../harness/leaks.js';
import { coreProcess, dumpProcess, restoreInto } from '../harness/patient.js';
import {
  NOBODY,
  type Privileges,
  privilegeRefusal,
  sluiceWith,
  startSluiceWith,
} from '../harness/privilege.js';
import { orGone } from '../harness/procfs.js';
import { startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { scaledMs } from '../harness/time.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';

leakCheck();

const refusal = privilegeRefusal();
/** For a test of a dozen commands. */
const LONG_MS = scaledMs(120_000);

describe('an ordinary user', () => {
  it('dumps, inspects and restores a process of their own', async (ctx) => {
    if (refusal !== undefined) ctx.skip(refusal);
    await using target = await startTarget('churn', ['still'], { uid: NOBODY });
    await using dir = new TempDir();
    dir.open();
    const before = viewOf(target.pid);
    const pid = String(target.pid);
    const done = (...args: string[]) => {
      const { status, stderr } = sluiceWith({ uid: NOBODY }, ...args);
      expect({ args, status, stderr }).toMatchObject({ status: 0 });
    };
    done('dump', pid, '--out', dir.join('rounds'), '--rounds', '2');
    done('dump', pid, '--out', dir.join('twin'), '--consistency', 'twin');
    done('core', '--pid', pid, '--out', dir.join('core'));
    done('core', dir.join('rounds'), '--out', dir.join('core-2'));
    done('inspect', dir.join('rounds'));
    done('restore', dir.join('twin'), '--into', pid, '--force');
    await target.check();
    await assertUntouched(target.pid, before);
  });
});

/** What a dump says of the ways that it took. */
const UFFD = { tracker: 'uffd-wp', capture: 'vmsplice' };
const BARE = { tracker: 'none', capture: 'read' };

describe('without', () => {
  // The target has a seccomp filter, which takes the most privilege.
  const cases: [string, Privileges, object][] = [
    ['any loss', {}, UFFD],
    ['CAP_SYS_ADMIN', { without: ['sys_admin'] }, BARE],
    ['CAP_SYS_NICE', { without: ['sys_nice'] }, UFFD],
    ['CAP_SYS_RESOURCE', { without: ['sys_resource'] }, UFFD],
    ['CAP_CHECKPOINT_RESTORE', { without: ['checkpoint_restore'] }, UFFD],
    ['CAP_DAC_OVERRIDE', { without: ['dac_override', 'dac_read_search'] }, UFFD],
    [
      'all but CAP_SYS_PTRACE and CAP_SYS_ADMIN',
      { without: ['all', '+sys_ptrace', '+sys_admin'] },
      UFFD,
    ],
    ['all but CAP_SYS_PTRACE', { without: ['all', '+sys_ptrace'] }, BARE],
  ];
  for (const [title, privileges, ways] of cases) {
    it(`${title}, what is left is used`, async (ctx) => {
      if (refusal !== undefined) ctx.skip(refusal);
      await using target = await startTarget('seccomp', ['process']);
      await using dir = new TempDir();
      const before = viewOf(target.pid);
      const image = dir.join('image');
      const args = ['dump', String(target.pid), '--out', image, '--force', '--json'];
      const dumped = sluiceWith(privileges, ...args);
      expect(dumped).toMatchObject({ status: 0, stderr: '' });
      expect(JSON.parse(dumped.stdout)).toMatchObject(ways);
      // The others differ in nothing that a restore needs.
      if (privileges.without?.includes('all')) {
        const restored = sluiceWith(
          privileges,
          'restore',
          image,
          '--into',
          String(target.pid),
          '--force',
        );
        if (ways === UFFD) expect(restored).toMatchObject({ status: 0 });
        else expect(restored.stderr).toContain('ERR_SLUICE_INJECTION');
      }
      await target.check();
      await assertUntouched(target.pid, before);
    });
  }

  for (const title of ['CAP_SYS_PTRACE', 'all capabilities']) {
    it(`${title} there is no way to a process that has more`, async (ctx) => {
      if (refusal !== undefined) ctx.skip(refusal);
      const without = [title === 'CAP_SYS_PTRACE' ? 'sys_ptrace' : 'all'];
      await using target = await startTarget('seccomp', ['process']);
      await using dir = new TempDir();
      const before = viewOf(target.pid);
      const pid = String(target.pid);
      const refused = { status: 1, stderr: expect.stringContaining('ERR_SLUICE_PERMISSION') };
      const out = dir.join('image');
      expect(sluiceWith({ without }, 'dump', pid, '--out', out)).toMatchObject(refused);
      expect(readdirSync(dir.path)).toEqual([]);
      await target.check();
      await assertUntouched(target.pid, before);
    });
  }

  it('CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE shared memory is what the process has mapped', async (ctx) => {
    if (refusal !== undefined) ctx.skip(refusal);
    await using files = new TempDir();
    await using target = await startTarget('mappings', [files.path]);
    await using dir = new TempDir();
    const without = ['sys_admin', 'checkpoint_restore'];
    const args = ['dump', String(target.pid), '--out', dir.join('image'), '--json'];
    const { status, stdout } = sluiceWith({ without }, ...args);
    expect(status).toBe(0);
    const { warnings } = JSON.parse(stdout) as { warnings: string[] };
    expect(warnings.join('\n')).toContain('only the pages that this process has mapped were taken');
    await target.check();
  });
});

/** Of all that is below a path, though directories may be removed meanwhile. */
function namesBelow(path: string): string[] {
  for (;;) {
    const names = orGone(() => readdirSync(path, { recursive: true, encoding: 'utf8' }));
    if (names !== undefined) return names;
  }
}

/** Files and directories below a path whose mode is not as it must be, and how many there were. */
function modesBelow(path: string, open: Set<string>): number {
  const names = namesBelow(path);
  for (const name of names) {
    const stats = statSync(join(path, name), { throwIfNoEntry: false });
    if (stats === undefined) continue;
    const mode = (stats.mode & 0o777).toString(8);
    if (mode !== (stats.isDirectory() ? '700' : '600')) open.add(`${name} ${mode}`);
  }
  return names.length;
}

describe('files', () => {
  it('are for nobody else from their first instant on, whatever the umask', {
    timeout: LONG_MS,
  }, async (ctx) => {
    if (refusal !== undefined) ctx.skip(refusal);
    await using target = await startTarget('churn', ['still']);
    await using dir = new TempDir();
    const pid = String(target.pid);
    const image = dir.join('image');
    mkdirSync(dir.join('tmp'), { mode: 0o700 });
    const commands = [
      ['dump', pid, '--out', image, '--rounds', '2'],
      ['dump', pid, '--out', dir.join('criu'), '--format', 'criu', '--rounds', '0'],
      ['core', '--pid', pid, '--out', dir.join('core'), '--tmp', dir.join('tmp')],
      ['core', image, '--out', dir.join('core-2')],
      ['flatten', image, '--out', dir.join('flat')],
      ['export', image, '--format', 'criu', '--out', dir.join('exported')],
    ];
    for (const command of commands) {
      const open = new Set<string>();
      const child = startSluiceWith({ umask: '0' }, ...command);
      const end = once(child, 'exit');
      while (child.exitCode === null && child.signalCode === null) {
        modesBelow(dir.path, open);
        await sleep(4);
      }
      expect(await end, command.join(' ')).toEqual([0, null]);
      const names = modesBelow(dir.path, open);
      expect(names).toBeGreaterThan(1);
      expect([...open], command.join(' ')).toEqual([]);
    }
    await target.check();
  });
});

describe('secrets', () => {
  const ARGUMENT = 'argument-0xfeedc0de-secret';
  const ENVIRONMENT = 'environment-0xfeedc0de-secret';

  /** Fails if any of it is in what was said. */
  function expectNothingOf(said: string): void {
    expect(said.length).toBeGreaterThan(0);
    expect(said).not.toMatch(/0xfeedc0de|feedc0de/i);
  }

  it('of a process are in no log, error or result, whatever fails', {
    timeout: LONG_MS,
  }, async () => {
    const env = { SLUICE_TEST_SECRET: ENVIRONMENT };
    await using target = await startTarget('churn', ['still', ARGUMENT], { env });
    const cmdline = readFileSync(`/proc/${target.pid}/cmdline`, 'latin1');
    const environ = readFileSync(`/proc/${target.pid}/environ`, 'latin1');
    expect([cmdline, environ].every((text) => text.includes('feedc0de'))).toBe(true);
    await using dir = new TempDir();
    const said: string[] = [];
    const note = (...values: unknown[]) => {
      said.push(inspect(values, { depth: 20, showHidden: true, maxStringLength: null }));
    };
    const logger = { debug: note, info: note, warn: note, error: note, trace: note };
    const failing = async (work: PromiseLike<unknown>) => {
      note(await work.then(undefined, (error: unknown) => error));
    };
    note(await dumpProcess(target.pid, { dir: dir.join('image'), rounds: 0, logger }));
    const faults: FaultSpec[] = [
      ...['ptrace', 'ioctl', 'openat', 'pread64', 'splice', 'wait4'].map((call) => ({
        call,
        errno: 'EIO' as const,
        skip: 3,
      })),
      ...['remote:clone', 'remote:vmsplice'].map((call) => ({
        call,
        errno: 'ENOMEM' as const,
      })),
      { call: 'process_vm_readv', errno: 'EPERM' },
    ];
    for (const [i, fault] of faults.entries()) {
      await withFaults([fault], () =>
        failing(dumpProcess(target.pid, { dir: dir.join(`failed-${i}`), rounds: i % 2, logger })),
      );
    }
    for (const skip of [0, 40]) {
      await withFaults([{ call: 'ptrace', errno: 'EIO', skip }], () =>
        failing(restoreInto(target.pid, dir.join('image'), { force: true, logger })),
      );
    }
    await failing(restoreInto(target.pid, dir.join('image'), { force: true, logger }));
    await failing(coreProcess(target.pid, { out: dir.join('core'), logger }));
    await failing(writeCore(dir.join('image'), { out: dir.join('core'), logger }));
    await failing(flattenImage(dir.join('image'), { dir: dir.join('image') }));
    await failing(exportImage(dir.join('image'), dir.join('image')));
    await target.check();
    {
      await using other = await startTarget('churn', ['still']);
      await failing(restoreInto(other.pid, dir.join('image'), { force: true, logger }));
    }
    // It is all in the image, which tells so when it is damaged there.
    const shards = readdirSync(dir.join('image'))
      .filter((name) => name.startsWith('shard-'))
      .map((name) => dir.join('image', name));
    const path = shards.find((shard) => readFileSync(shard).includes(ENVIRONMENT)) ?? '';
    const bytes = readFileSync(path);
    expect(shards.some((shard) => readFileSync(shard).includes(ARGUMENT))).toBe(true);
    bytes.write('x', bytes.indexOf(ENVIRONMENT));
    writeFileSync(path, bytes);
    await using image = await openImage(dir.join('image'));
    await failing(image.verify());
    await failing(writeCore(image, { out: dir.join('core-2'), logger }));
    expectNothingOf(said.join('\n'));
    expect(said.join('\n')).toContain('ERR_SLUICE_IMAGE_CORRUPT');
  });

  it('are not in what the command says, with all that it can say of itself', {
    timeout: LONG_MS,
  }, async (ctx) => {
    if (refusal !== undefined) ctx.skip(refusal);
    const env = { SLUICE_TEST_SECRET: ENVIRONMENT };
    await using target = await startTarget('churn', ['still', ARGUMENT], { env });
    await using dir = new TempDir();
    dir.open();
    const debug = { env: { NODE_DEBUG: 'sluice,worker,fs,child_process' } };
    const pid = String(target.pid);
    const said = [
      sluiceWith(debug, 'dump', pid, '--out', dir.join('image'), '--rounds', '0'),
      sluiceWith(debug, 'dump', pid, '--out', dir.join('image')),
      sluiceWith(debug, 'dump', pid, '--out', dir.join('json'), '--json'),
      sluiceWith({ ...debug, uid: NOBODY }, 'dump', pid, '--out', dir.join('not')),
      sluiceWith({ ...debug, uid: NOBODY }, 'doctor', pid),
      sluiceWith(
        { ...debug, without: ['sys_ptrace'] },
        'restore',
        dir.join('image'),
        '--into',
        pid,
        '--force',
      ),
      sluiceWith(debug, 'doctor', pid),
      sluiceWith(debug, 'core', '--pid', pid, '--out', dir.join('core')),
      sluiceWith(debug, 'restore', dir.join('image'), '--into', '1', '--force'),
      sluiceWith(debug, 'restore', dir.join('image'), '--into', pid, '--force'),
      sluiceWith(debug, 'diff', dir.join('image'), dir.join('json')),
      sluiceWith(debug, 'flatten', dir.join('image'), '--out', dir.join('json')),
    ];
    const text = said.map(({ stdout, stderr }) => stdout + stderr).join('\n');
    expect(text).toContain('ERR_SLUICE_OUTPUT_EXISTS');
    expect(text).toContain('ERR_SLUICE_PERMISSION');
    expectNothingOf(text);
    await target.check();
  });
});
