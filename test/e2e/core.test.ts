/** Cores of live processes, as gdb and readelf see them, and as their own memory was. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { writeCore } from '@sluice/core';
import { describe, expect, it } from 'vitest';
import { dumpOf, failureOf } from '../harness/dump.js';
import { gdbView } from '../harness/gdb.js';
import { startHanging } from '../harness/hanging.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld } from '../harness/oracle.js';
import { coreProcess, sluice, startSluice } from '../harness/patient.js';
import { readMappings, threadsOf } from '../harness/procfs.js';
import { missingPrograms, runProgram } from '../harness/program.js';
import { startTarget } from '../harness/target.js';
import { mountRefusal, SmallDisk, TempDir } from '../harness/temp.js';
import { assertUntouched, viewOf } from '../harness/untouched.js';
import { outcomeOf } from '../unit/cli/run_sluice.js';
import { type Core, memoryOf, readCore, type Segment } from '../unit/core_dump/elf_reader.js';

leakCheck();

const noGdb = missingPrograms('gdb', ['gdb']);
const noReadelf = missingPrograms('binutils', ['readelf']);
const noPython = missingPrograms('python3', ['python3']);

const THREADS = 64;

const executableOf = (pid: number) => readlinkSync(`/proc/${pid}/exe`);

describe('a core', () => {
  it('of 64 busy threads shows gdb each where it was, with values of one instant', async (ctx) => {
    if (noGdb !== undefined) ctx.skip(noGdb);
    await using dir = new TempDir();
    await using target = await startTarget('functions64');
    const before = viewOf(target.pid);
    const out = dir.join('core');
    const result = await coreProcess(target.pid, { out });
    expect(result).toMatchObject({ pid: target.pid, out, threads: THREADS + 1, filter: 0x33 });
    expect(result.left_out).toEqual([]);
    expect(readdirSync(dir.path)).toEqual(['core']);
    await assertUntouched(target.pid, before, { busy: true });
    await target.check();

    const expressions = [
      ...['local.magic', 'local.turn', 'object->magic', 'object->turn', 'g_turns[#]'],
      'object->name._M_string_length',
    ];
    const ask = { function: 'run', expressions };
    const view = await gdbView(executableOf(target.pid), out, ask);
    // An older gdb does not know where newer processors keep their vector registers, whoever wrote the
    // core; it takes those that it knows.
    const warnings = view.warnings.filter((line) => /^warning: |error/i.test(line));
    const known = /Unexpected size.*reg-xstate|reg-xstate.* too small/;
    expect(warnings.filter((line) => !known.test(line))).toEqual([]);
    for (const library of [/libstdc\+\+/, /libc\.so/]) {
      expect(view.libraries.find((line) => library.test(line))).toMatch(/ Yes /);
    }
    expect(view.threads.map(({ tid }) => tid).sort()).toEqual(threadsOf(target.pid).sort());
    expect(view.current).toBe(target.pid);
    expect(view.threads.find(({ tid }) => tid === target.pid)?.frames).toContain('main');
    const threads = view.threads.filter(({ values }) => 'local.turn' in values);
    expect(threads).toHaveLength(THREADS);
    for (const { frames, values } of threads) {
      const at = frames.findIndex((name) => name?.startsWith('run<'));
      const number = Number(frames[at]?.slice('run<'.length, -1));
      // The right function called the right one, and was called by a thread.
      const inner = number % 2 === 0 ? 'wait_here' : 'count_here';
      expect(frames[at - 1]).toBe(`${inner}<${number}>`);
      expect(frames.at(-1)).toMatch(/^(__)?clone3?$/);
      const value = (name: string) => Number(values[name]);
      expect(value('local.magic')).toBe(0xabcdef00 + number);
      expect(value('object->magic')).toBe(0x12345600 + number);
      expect(value('object->name._M_string_length')).toBe(`job ${number}`.length);
      const turns = [value('local.turn'), value('object->turn'), value('g_turns[#]')];
      const [ahead = 0, middle = 0, behind = 0] = turns;
      expect(ahead >= middle && middle >= behind && ahead - behind <= 1, turns.join()).toBe(true);
      if (number % 2 === 0) expect(turns).toEqual([number, number, number]);
      else expect(ahead).toBeGreaterThan(0);
    }
  });

  it('is nothing odd to readelf', async (ctx) => {
    if (noReadelf !== undefined) ctx.skip(noReadelf);
    await using dir = new TempDir();
    await using target = await startTarget('functions64');
    const out = dir.join('core');
    await coreProcess(target.pid, { out });
    // It says what it finds odd on standard error, and then this throws.
    const asked = ['--file-header', '--segments', '--sections', '--notes', '--wide'];
    const all = await runProgram('readelf', [...asked, out]);
    // What registers it does not know it prints as bytes.
    const text = all.replace(/description data:.*/g, '');
    expect(text).toMatch(/Type: +CORE \(Core file\)/);
    expect(text.match(/NT_PRSTATUS/g)).toHaveLength(THREADS + 1);
    expect(text.match(/NT_FPREGSET/g)).toHaveLength(THREADS + 1);
    expect(text.match(/NT_X86_XSTATE/g)).toHaveLength(THREADS + 1);
    for (const note of ['PRPSINFO', 'SIGINFO', 'AUXV', 'FILE']) {
      expect(text.match(new RegExp(`NT_${note}`, 'g'))).toHaveLength(1);
    }
    expect(/warning|error|corrupt/i.exec(text)?.[0]).toBeUndefined();
  });

  it('has every byte that the process had, and all mappings of it', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('functions64');
    const mappings = readMappings(target.pid).filter(({ path }) => !/^\[v(var|syscall)/.test(path));
    await using dump = await dumpOf(target.pid, { after: 'stop' });
    const out = dir.join('core');
    // Everything that can be had.
    const { left_out } = await writeCore(dump.image, { out, filter: 0x1ff });
    expect(left_out).toEqual([]);
    const core = readCore(readFileSync(out));
    const compared = await whileHeld(target.pid, async (memory) => {
      let bytes = 0;
      for (const { address, fileBytes } of core.loads) {
        if (fileBytes === 0) continue;
        const expected = memory.read(address, fileBytes);
        const found = memoryOf(core, address, fileBytes);
        expect(
          expected !== undefined && found?.equals(expected),
          `the bytes at ${address.toString(16)}`,
        ).toBe(true);
        bytes += fileBytes;
      }
      return bytes;
    });
    // The stacks of the threads alone are larger.
    expect(compared).toBeGreaterThan(THREADS * 1024 * 1024);
    for (const { start, end, protection, path } of mappings) {
      const load = core.loads.find(({ address }) => address === start);
      expect([path, load?.memoryBytes]).toEqual([path, end - start]);
      const flags = [...'xwr'].reduce(
        (sum, c, bit) => sum + (protection.includes(c) ? 1 << bit : 0),
        0,
      );
      expect([path, load?.flags]).toEqual([path, flags]);
      if (path !== '') expect([path, load?.fileBytes]).toEqual([path, Number(end - start)]);
    }
    await dump.result.held?.resume();
    await target.check();
  });

  it('has the mappings and notes of one that the kernel writes', async (ctx) => {
    const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'latin1').trim();
    if (!/^[\w.]+$/.test(pattern)) ctx.skip(`the kernel's cores go to ${pattern}`);
    await using dir = new TempDir();
    const script = 'ulimit -c unlimited; cd "$1"; exec "$2"';
    const program = fileURLToPath(new URL('../targets/build/functions64', import.meta.url));
    const child = spawn('sh', ['-c', script, 'sh', dir.path, program], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const exit = once(child, 'exit');
    try {
      const pid = child.pid ?? 0;
      await once(child.stdout, 'data');
      await coreProcess(pid, { out: dir.join('ours') });
      child.kill('SIGABRT');
      expect(await exit).toEqual([null, 'SIGABRT']);
    } finally {
      child.kill('SIGKILL');
      await exit;
    }
    const [file, ...more] = readdirSync(dir.path).filter((name) => name !== 'ours');
    // A limit of the system can forbid them.
    if (file === undefined) ctx.skip('the kernel writes no cores here');
    expect(more).toEqual([]);
    const [ours, kernel] = ['ours', file ?? ''].map((name) =>
      readCore(readFileSync(dir.join(name))),
    ) as [Core, Core];
    const of = ({ address, memoryBytes, fileBytes, flags, alignment }: Segment) => {
      return { address, memoryBytes, fileBytes, flags, alignment };
    };
    // It alone can read what it provides itself: the time, and the entry of system calls.
    const kernels = kernel.loads.filter(
      ({ fileBytes }, i) => fileBytes !== ours.loads[i]?.fileBytes,
    );
    expect(kernels.length).toBeLessThanOrEqual(4);
    const others = (core: Core) =>
      core.loads.filter((_, i) => !kernels.includes(kernel.loads[i] as Segment)).map(of);
    expect(others(ours)).toEqual(others(kernel));
    const notes = ({ notes }: Core) =>
      notes.map(({ owner, type, bytes }) => [owner, type, bytes.length]);
    // Where registers are in the area of XSAVE. Kernels before 6.12 do not say it.
    const layout = (core: Core) => core.notes.find(({ type }) => type === 0x205);
    const [our, its] = [layout(ours), layout(kernel)];
    expect(our).toBe(ours.notes.at(-1));
    expect(our?.bytes.length).toBeGreaterThan(0);
    if (its === undefined) ours.notes.pop();
    else expect(our?.bytes).toEqual(its.bytes);
    expect(notes(ours)).toEqual(notes(kernel));
  });

  it('of a Python process has its native frames', async (ctx) => {
    const missing = noGdb ?? noPython;
    if (missing !== undefined) ctx.skip(missing);
    await using dir = new TempDir();
    await using target = await startTarget('python_target.py', ['16', 'busy']);
    const out = dir.join('core');
    await coreProcess(target.pid, { out });
    const { threads } = await gdbView(executableOf(target.pid), out);
    expect(threads).toHaveLength(3);
    for (const { tid, frames } of threads) {
      expect(frames.some((name) => /^_?Py/.test(name ?? ''))).toBe(true);
      // The program itself may have no names but those that others link to.
      if (tid !== target.pid) expect(frames.at(-1)).toMatch(/^(__)?clone3?$/);
    }
    await target.check();
  });

  it('of a Node process has its threads and memory', async (ctx) => {
    if (noGdb !== undefined) ctx.skip(noGdb);
    await using dir = new TempDir();
    await using target = await startTarget<{ pid: number; marker: string }>('node_target.mjs', [
      '16',
      'busy',
    ]);
    const out = dir.join('core');
    await coreProcess(target.pid, { out });
    const { threads } = await gdbView(executableOf(target.pid), out);
    expect(threads.map(({ tid }) => tid).sort()).toEqual(threadsOf(target.pid).sort());
    const core = readCore(readFileSync(out));
    const marker = Buffer.from(`${target.info.marker}\n`.repeat(8));
    expect(core.bytes.includes(marker)).toBe(true);
    // V8 reserves far more than it uses.
    const { size, blocks } = statSync(out);
    expect(blocks * 512).toBeLessThan(size);
    await target.check();
  });
});

describe('sluice core', () => {
  it('takes the filter of the process, and writes to a pipe what it writes to a file', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('functions64');
    const image = dir.join('image');
    expect((await sluice('dump', `${target.pid}`, '--out', image)).status).toBe(0);
    const file = await sluice('core', image, '--out', dir.join('core'), '--json');
    expect({ status: file.status, stderr: file.stderr }).toEqual({ status: 0, stderr: '' });
    const told = JSON.parse(file.stdout.toString()) as Record<string, unknown>;
    const { size } = statSync(dir.join('core'));
    expect(told).toMatchObject({ pid: target.pid, filter: 0x33, core_bytes: size, dump: null });
    const pipe = await sluice('core', image, '--out', '-', '--json');
    expect(pipe.status).toBe(0);
    // Only the core can be there.
    expect(JSON.parse(pipe.stderr)).toEqual({
      ...told,
      ...{ out: null, write_time: expect.any(Number) },
    });
    expect(pipe.stdout.equals(readFileSync(dir.join('core')))).toBe(true);
    const text = await sluice('core', image, '--out', dir.join('small'), '--filter', '0x10');
    expect(text.stdout.toString()).toContain(`Wrote a core of process ${target.pid} in ${image}`);
    expect(statSync(dir.join('small')).size).toBeLessThan(size / 10);

    await runProgram('sh', ['-c', `echo 0x3 > /proc/${target.pid}/coredump_filter`]);
    const args = ['--pid', `${target.pid}`, '--out', dir.join('live'), '--json'];
    const live = await sluice('core', ...args, '--rounds', '1', '--lanes', '1');
    expect({ status: live.status, stderr: live.stderr }).toEqual({ status: 0, stderr: '' });
    const result = JSON.parse(live.stdout.toString()) as { filter: number; dump: object };
    expect(result).toMatchObject({ filter: 3, dump: { lanes: 1 } });
    expect(readdirSync(dir.path).sort()).toEqual(['core', 'image', 'live', 'small']);
    await target.check();
  });

  it('ends at a signal, and quietly when nobody reads on, with nothing left', async () => {
    await using dir = new TempDir();
    await using target = await startTarget('functions64');
    const args = ['core', '--pid', `${target.pid}`, '--out'];
    const throughImage = ['--tmp', dir.path];
    for (const way of [[], throughImage]) {
      const child = await startHanging([...args, dir.join('core'), ...way], {
        call: 'process_vm_readv',
      });
      expect(readdirSync(dir.path)).not.toEqual([]);
      const ended = outcomeOf(child);
      child.kill('SIGINT');
      const { status, stderr } = await ended;
      expect({ status, stderr }).toEqual({
        status: 130,
        stderr: expect.stringContaining('SIGINT'),
      });
      expect(readdirSync(dir.path)).toEqual([]);
    }

    const piped = startSluice([...args, '-', ...throughImage]);
    const exit = once(piped, 'exit');
    await once(piped.stdout ?? piped, 'data');
    piped.stdout?.destroy();
    expect(await exit).toEqual([0, null]);
    expect(readdirSync(dir.path)).toEqual([]);
  });

  it.each([
    [['--out', 'x'], 'Expected the directory of an image, or --pid'],
    [['--pid', '1'], "required option '--out <file>' not specified"],
    [['image', '--out', 'x', '--rounds', '1'], 'are for a live process and not for an image'],
    [['image', '--out', 'x', '--filter', 'y'], 'Expected a mask'],
    [['image', '--out', 'x', '--filter', '0x200'], 'expected a whole number from 0 to 511'],
  ])('refuses %j', async (args, message) => {
    const { status, stdout, stderr } = await sluice('core', ...args);
    expect({ status, stdout: stdout.toString() }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain('ERR_SLUICE_OPTION');
    expect(stderr).toContain(message);
  });
});

it('coreProcess() leaves nothing if the disk is full', async (ctx) => {
  const refusal = await mountRefusal();
  if (refusal !== undefined) ctx.skip(refusal);
  await using target = await startTarget('functions64');
  // In the core; in the image; in the core beside the image.
  for (const [kibibytes, throughImage] of [
    [200, false],
    [200, true],
    [1400, true],
  ] as const) {
    await using disk = new SmallDisk(kibibytes * 1024);
    const out = disk.join('core');
    const way = throughImage ? { temporaryDir: disk.path } : {};
    const error = await failureOf(coreProcess(target.pid, { out, ...way }));
    expect(error).toMatchObject({ code: 'ERR_SLUICE_DISK_FULL', thawed: true });
    expect(error.message).toContain(out);
    expect(readdirSync(disk.path)).toEqual([]);
  }
  await target.check();
});

it('coreProcess() leaves nothing if the process cannot be dumped, or the place is taken', async () => {
  await using dir = new TempDir();
  const gone = await failureOf(coreProcess(2 ** 22, { out: dir.join('core') }));
  expect(gone.code).toBe('ERR_SLUICE_NO_SUCH_PROCESS');
  const self = await failureOf(coreProcess(process.pid, { out: dir.join('core') }));
  expect(self.code).toBe('ERR_SLUICE_SELF');
  expect(existsSync(dir.join('core'))).toBe(false);
  await using target = await startTarget('functions64');
  const taken = await failureOf(coreProcess(target.pid, { out: dir.path }));
  expect(taken.code).toBe('ERR_SLUICE_OUTPUT_EXISTS');
  const nowhere = await failureOf(coreProcess(target.pid, { out: dir.join('no', 'core') }));
  expect(nowhere.code).toBe('ERR_SLUICE_OUTPUT_NOT_WRITABLE');
  expect(readdirSync(dir.path)).toEqual([]);
  await target.check();
});
