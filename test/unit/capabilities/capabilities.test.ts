import { spawn } from 'node:child_process';
import { ERRORS, inspectSystem, inspectTarget } from '@sluice/core';
import { describe, expect, it } from 'vitest';

describe('inspectSystem', () => {
  it('says of every probe what was found and what follows', () => {
    const report = inspectSystem();
    expect(report.pageSizeBytes).toBe(4096);
    expect(report.release).not.toBe('');
    expect(report.checks).toHaveLength(14);
    for (const { name, ok, detail, means } of report.checks) {
      expect(means).not.toBe('');
      if (!ok) expect(`${name}: ${detail}`).not.toBe(`${name}: `);
    }
  });

  it('names the tracker that a dump takes, and what keeps it from the best one', () => {
    const { checks } = inspectSystem();
    const found = (name: string) => checks.find((check) => check.name === name);
    const uffd = found('uffdWpAsync')?.ok && found('pagemapScan')?.ok;
    const best = uffd ? 'uffd-wp' : found('softDirty')?.ok ? 'soft-dirty' : 'none';
    const tracker = found('tracker');
    expect(tracker?.ok).toBe(best !== 'none');
    expect(tracker?.detail).toMatch(uffd ? /^uffd-wp$/ : new RegExp(`^${best}; not uffd-wp: .`));
  });
});

describe('inspectTarget', () => {
  it('names code and advice for a process that cannot be dumped', () => {
    const report = inspectTarget(process.pid);
    expect(report.ok).toBe(false);
    expect(report.checks).toHaveLength(1);
    expect(report.checks[0]?.detail).toMatch(/^ERR_SLUICE_SELF: /);
    expect(report.checks[0]?.means).toBe(ERRORS.ERR_SLUICE_SELF.advice);
  });

  it('takes a process that does not exist for an answer', () => {
    const report = inspectTarget(2 ** 22);
    expect(report).toMatchObject({ ok: false, state: '' });
    expect(report.checks[0]?.detail).toMatch(/^ERR_SLUICE_NO_SUCH_PROCESS: /);
  });

  it('describes a process that can be dumped', async () => {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' });
    try {
      await new Promise((resolve) => child.once('spawn', resolve));
      const report = inspectTarget(child.pid ?? 0);
      expect(report).toMatchObject({ pid: child.pid, ok: true, threads: 1 });
      expect(report.checks.map(({ name }) => name)).toEqual([
        'dumpable',
        'state',
        'threads',
        'seccomp',
      ]);
    } finally {
      child.kill('SIGKILL');
    }
  });

  it('refuses what is no pid', () => {
    expect(() => inspectTarget(0)).toThrow(/^Pid: expected a whole number/);
  });
});
