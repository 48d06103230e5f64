/** Targets with memory of special kinds, or with very many mappings. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  type AwkwardReady,
  type Expected,
  expectLeftAlone,
  startAwkward,
} from '../harness/awkward.js';
import { dumpOf, type Options } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { restoreInto } from '../harness/patient.js';
import { patternBytes } from '../harness/pattern.js';
import { startTarget } from '../harness/target.js';
import { HugePagePool } from '../harness/temp.js';
import { within } from '../harness/wait.js';

leakCheck();

const PAGE = 4096n;
/** Every so many mappings have a page of their own. */
const FILLED = 32;

const WATCHED: Expected = {
  twin: {
    consistency: 'copy',
    consistency_reason: expect.stringContaining('userfaultfd'),
    warnings: [expect.stringContaining('without a twin')],
  },
  restore: 'ERR_SLUICE_RESTORE_MISMATCH',
};

describe('a target with', () => {
  it.for<[string, string[], Expected]>([
    ['memory that is secret from the kernel', ['secret'], {}],
    ['locked memory', ['locked'], {}],
    ['missing pages that its own userfaultfd fills', ['uffd=missing'], WATCHED],
    ['pages that its own userfaultfd protects', ['uffd=wp'], WATCHED],
  ])('%s', async ([, conditions, expected], ctx) => {
    await using target = await startAwkward(...conditions);
    const { absent } = target.info;
    if (absent !== undefined) ctx.skip(`no ${absent} here`);
    await expectLeftAlone(target, expected);
  });

  it('huge pages of hugetlbfs', async (ctx) => {
    await using pool = new HugePagePool();
    if (pool.refusal !== undefined) ctx.skip(pool.refusal);
    await using target = await startAwkward('huge');
    await expectLeftAlone(target);
  });
});

interface ManyMappings extends AwkwardReady {
  vmas: string;
  vmaPages: number;
}

/** A dump of it has all of its mappings, and their pages; and it keeps them as they were. */
async function expectMappingsKept(
  { pid, vmas, vmaPages }: ManyMappings,
  options: Options,
  result: object,
) {
  const maps = () => readFileSync(`/proc/${pid}/maps`, 'latin1');
  const before = maps();
  await using dump = await dumpOf(pid, options);
  expect(maps() === before).toBe(true);
  expect(dump.result).toMatchObject(result);
  await dump.image.verify();
  expect(dump.image.processes[0]?.vmas.length).toBeGreaterThanOrEqual(vmaPages);
  for (let page = 0; page < vmaPages; page += FILLED * 97) {
    const address = BigInt(vmas) + BigInt(page) * PAGE;
    const stored = await dump.image.read(pid, address, 2 * Number(PAGE));
    const own = patternBytes(address, 1n);
    expect(Buffer.from(stored).equals(Buffer.concat([own, Buffer.alloc(own.length)]))).toBe(true);
  }
  return dump;
}

describe('a target with very many mappings', () => {
  it('is dumped, and restored, with 60,000', { timeout: 120_000 }, async () => {
    await using target = await startTarget<ManyMappings>('awkward', ['vmas=60000']);
    const ways: [Options, object][] = [
      [{ capture: 'vmsplice', rounds: 0, consistency: 'copy' }, { capture: 'vmsplice' }],
      [
        { rounds: 1, consistency: 'twin' },
        { capture: 'vmsplice', consistency: 'twin' },
      ],
    ];
    for (const [options, result] of ways) {
      await expectMappingsKept(target.info, options, { ...result, warnings: [] });
      await target.check();
    }
    await using dump = await dumpOf(target.pid, { rounds: 0 });
    await target.command('write');
    await within('a restore', restoreInto(target.pid, dump.image, { force: true }));
    expect(await target.command('turn')).toMatchObject({ turn: 1 });
    await target.check();
  });

  it('is read from outside if it can have none besides', async () => {
    await using target = await startTarget<ManyMappings>('awkward', ['vmas']);
    const failed = expect.stringContaining('no memory could be mapped in it');
    const result = { capture: 'read', capture_reason: failed, warnings: [] };
    await expectMappingsKept(target.info, { rounds: 0 }, result);
    await target.check();
  });
});
