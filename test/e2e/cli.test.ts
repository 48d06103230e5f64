/** The command with live processes, as people and scripts use it. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { open, readdir, stat } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { leakCheck } from '../harness/leaks.js';
import { sluice, startSluice } from '../harness/patient.js';
import { patternBytes } from '../harness/pattern.js';
import { readStatus, threadsOf } from '../harness/procfs.js';
import { type Ready, startTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { waitFor } from '../harness/wait.js';
import { outcomeOf, SLUICE } from '../unit/cli/run_sluice.js';

leakCheck();

interface ChurnReady extends Ready {
  /** Address in hex of memory with a known pattern. */
  memory: string;
  bytes: number;
}

/** Holds 8 MiB and stands still: the command that would make it exit never comes. */
const startTall = () => startTarget<ChurnReady>('churn', ['exit', '0']);
const startSmall = () => startTarget('churn', ['still']);

/** What the target has at an offset of its memory. */
function patternAt({ memory, bytes }: ChurnReady, offset: number, length: number): Uint8Array {
  return patternBytes(BigInt(memory), 1n, bytes).subarray(offset, offset + length);
}

/** Runs the command with a terminal of this width as standard output and standard error. */
async function onTerminal(columns: number, args: readonly string[], cwd: string): Promise<string> {
  const script = `
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, int(sys.argv[1]), 0, 0))
try:
    while data := os.read(fd, 65536):
        sys.stdout.buffer.write(data)
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;
  // The shell waits until the terminal has its size.
  const wait = 'until [ "$(stty size)" = "24 $0" ]; do :; done; exec "$@"';
  const command = ['sh', '-c', wait, String(columns), process.execPath, SLUICE, ...args];
  const child = spawn('python3', ['-c', script, String(columns), ...command], { cwd });
  const { status, stdout, stderr } = await outcomeOf(child);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout.toString().replaceAll('\r\n', '\n');
}

describe('sluice dump', () => {
  it('prints one JSON object and nothing else with --json', async () => {
    await using dir = new TempDir();
    await using target = await startSmall();
    const out = dir.join('image');
    const outcome = await sluice('dump', String(target.pid), '--out', out, '--json');
    expect(outcome.stderr).toBe('');
    expect(outcome.status).toBe(0);
    expect(outcome.stdout.toString()).toMatch(/^\{.*\}\n$/);
    const result = JSON.parse(outcome.stdout.toString());
    expect(result).toMatchObject({ pid: target.pid, dir: out });
    for (const name of [
      'pages_written',
      'bytes_written',
      'freezing_time',
      'frozen_time',
      'memdump_time',
      'memwrite_time',
      'lanes',
      'shards',
    ]) {
      expect(result[name], name).toBeTypeOf('number');
    }
    expect(['vmsplice', 'read']).toContain(result.capture);
    await target.check();
  });

  it('tells people what took how long, the freeze first', async () => {
    await using dir = new TempDir();
    await using target = await startSmall();
    const args = ['dump', String(target.pid), '--out', dir.join('image')];
    const { status, stdout, stderr } = await sluice(...args);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const names = stdout
      .toString()
      .split('\n')
      .flatMap((line) => /^ {2,4}(\S+(?: \S+)?) {2}/.exec(line)?.[1] ?? []);
    expect(names.slice(0, 4)).toEqual(['frozen', 'stopping', 'capturing', 'writing']);
    expect(names).toEqual(expect.arrayContaining(['stored', 'throughput', 'capture', 'output']));
  });

  it('passes its options on', async () => {
    await using dir = new TempDir();
    await using target = await startSmall();
    const options = '--lanes 3 --capture read --io buffered --checksum none --json'.split(' ');
    const args = ['dump', String(target.pid), '--out', dir.join('image'), ...options];
    const { status, stdout } = await sluice(...args);
    expect(status).toBe(0);
    expect(JSON.parse(stdout.toString())).toMatchObject({
      lanes: 3,
      capture: 'read',
      io: 'buffered',
      checksum: 'none',
    });
    const verified = await sluice('verify', dir.join('image'));
    expect(verified.stdout.toString()).toContain('has no checksums');
    expect(verified.status).toBe(0);
  });

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('ends at %s, with the target as it was', async (name, status) => {
    await using dir = new TempDir();
    // A target that cannot be stopped: its dump waits, and so it is under way for sure.
    await using target = await startTarget('churn', ['vfork-wait']);
    const out = dir.join('image');
    const forLong = ['--freeze-timeout', '5000'];
    const child = startSluice(['dump', String(target.pid), '--out', out, '--json', ...forLong]);
    const ended = outcomeOf(child);
    const opened = () => existsSync(dir.join('image/shard-0000.img'));
    await waitFor('the dump waits to freeze it', opened);
    child.kill(name);
    const outcome = await ended;
    expect(outcome.stderr).toBe(
      `sluice: ABORT_ERR: The operation was aborted by ${name} (The target runs on; nothing was kept.)\n`,
    );
    expect(outcome.stdout.toString()).toBe('');
    expect({ status: outcome.status, signal: outcome.signal }).toEqual({ status, signal: null });
    expect(await readdir(dir.path)).toEqual([]);
    for (const tid of threadsOf(target.pid)) {
      expect(readStatus(target.pid, tid).get('TracerPid')).toBe('0');
    }
    await target.check();
  });
});

describe('sluice doctor', () => {
  it('reports on a process that can be dumped', async () => {
    await using target = await startSmall();
    const people = await sluice('doctor', String(target.pid));
    expect(people).toMatchObject({ status: 0, stderr: '' });
    expect(people.stdout.toString()).toContain(`Process ${target.pid} (churn): can be dumped\n`);
    const json = await sluice('doctor', String(target.pid), '--json');
    expect(json).toMatchObject({ status: 0, stderr: '' });
    expect(JSON.parse(json.stdout.toString())).toMatchObject({
      ok: true,
      system: { ok: true },
      target: { pid: target.pid, ok: true },
    });
  });

  it('reports on the system alone', async () => {
    const { status, stdout } = await sluice('doctor', '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout.toString())).toMatchObject({ ok: true, target: null });
  });

  it('fails with the error that a dump would fail with, after its report', async () => {
    const { status, stdout, stderr } = await sluice('doctor', String(process.pid), '--json');
    expect(status).toBe(1);
    expect(JSON.parse(stdout.toString())).toMatchObject({ ok: false, target: { ok: false } });
    expect(stderr).toMatch(/^sluice: ERR_SLUICE_ANCESTOR: [^\n]+\n$/);
  });
});

describe('sluice with an image', () => {
  async function dumpTall(dir: TempDir, ...options: string[]) {
    await using target = await startTall();
    const { pid, info } = target;
    const out = dir.join('image');
    const { status } = await sluice('dump', String(pid), '--out', out, '--json', ...options);
    expect(status).toBe(0);
    return { pid: String(pid), info, out };
  }

  it('inspects it', async () => {
    await using dir = new TempDir();
    const { pid, info, out } = await dumpTall(dir);
    const json = await sluice('inspect', out, '--json');
    expect(json).toMatchObject({ status: 0, stderr: '' });
    expect(json.stdout.toString()).toMatch(/^\{.*\}\n$/);
    const report = JSON.parse(json.stdout.toString());
    expect(report.processes[0]).toMatchObject({ pid: Number(pid), name: 'churn' });
    expect(report.processes[0].vmas.every((vma: { start: string }) => /^0x/.test(vma.start))).toBe(
      true,
    );
    expect(report.rounds.map(({ kind }: { kind: string }) => kind)).toEqual(
      report.rounds.map((_: unknown, index: number) =>
        index === report.rounds.length - 1 ? 'final' : 'live',
      ),
    );
    const people = await sluice('inspect', out);
    expect(people).toMatchObject({ status: 0, stderr: '' });
    expect(people.stdout.toString()).toContain(`Process ${pid} (churn)`);
    expect(people.stdout.toString()).toMatch(/^0x.* rw-p +anonymous/m);
    expect(Number(info.bytes)).toBeLessThan(report.processes[0].bytes_stored + 1);
  });

  it('verifies it, and names the first damage', async () => {
    await using dir = new TempDir();
    const { out } = await dumpTall(dir, '--rounds', '0');
    const good = await sluice('verify', out);
    expect(good).toMatchObject({ status: 0, stderr: '' });
    expect(good.stdout.toString()).toContain('is undamaged');
    const shard = `${out}/shard-0000.img`;
    const { size } = await stat(shard);
    await using file = await open(shard, 'r+');
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, size - 1);
    await file.write(Buffer.of((byte[0] ?? 0) ^ 1), 0, 1, size - 1);
    const bad = await sluice('verify', out);
    expect(bad.status).toBe(1);
    expect(bad.stdout.toString()).toBe('');
    expect(bad.stderr).toMatch(/^sluice: ERR_SLUICE_IMAGE_CORRUPT: [^\n]*shard-0000\.img[^\n]*\n$/);
  });

  it.each([true, false])('reads bytes of the process (in hex: %s)', async (hex) => {
    await using dir = new TempDir();
    const { pid, info, out } = await dumpTall(dir);
    const start = BigInt(info.memory);
    for (const [offset, length] of [
      [0, 8],
      [4093, 10],
      [0, info.bytes],
      [info.bytes - 1, 1],
      [17, 0],
    ] as const) {
      const address = start + BigInt(offset);
      const words = hex
        ? [`0x${address.toString(16)}`, `0x${length.toString(16)}`]
        : [String(address), String(length)];
      const { status, stdout, stderr } = await sluice('read', out, pid, ...words);
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(stdout.equals(patternAt(info, offset, length))).toBe(true);
    }
  });

  it('reads nothing where it cannot read all', async () => {
    await using dir = new TempDir();
    const { pid, out } = await dumpTall(dir);
    const { status, stdout, stderr } = await sluice('read', out, pid, '0x0', '16');
    expect({ status, bytes: stdout.length }).toEqual({ status: 1, bytes: 0 });
    expect(stderr).toMatch(/^sluice: ERR_SLUICE_NOT_MAPPED: [^\n]+\n$/);
  });

  it('stops without a word when its reader has seen enough', async () => {
    await using dir = new TempDir();
    const { pid, info, out } = await dumpTall(dir);
    // Far more than a pipe holds, so that the end of the reader is noticed.
    expect(info.bytes).toBeGreaterThan(1 << 20);
    const script = 'set -o pipefail; "$@" | head -c 10';
    const command = [SLUICE, 'read', out, pid, info.memory, String(info.bytes)];
    const child = spawn('bash', ['-c', script, 'bash', process.execPath, ...command]);
    const { status, stdout, stderr } = await outcomeOf(child);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.equals(patternAt(info, 0, 10))).toBe(true);
  });

  it('fails if its output cannot be written', async () => {
    await using dir = new TempDir();
    const { out } = await dumpTall(dir);
    const command = [process.execPath, SLUICE, 'inspect', out];
    const child = spawn('sh', ['-c', '"$@" > /dev/full', 'sh', ...command]);
    const { status, stderr } = await outcomeOf(child);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^sluice: ERR_SLUICE_DISK_FULL: Standard output [^\n]+\n$/);
  });
});

it('sluice fits a terminal and shows progress there', async (ctx) => {
  const { error } = spawnSync('python3', ['--version']);
  if (error !== undefined) ctx.skip(`python3 does not run: ${error.message}`);
  await using dir = new TempDir();
  await using target = await startSmall();
  const pid = String(target.pid);
  const dump = await onTerminal(80, ['dump', pid, '--out', 'image'], dir.path);
  expect(dump).toMatch(/^ +\d+\.\d s {2}attaching to the process\n/);
  expect(dump).toContain(`Dumped process ${pid} to image\n`);
  const inspect = await onTerminal(80, ['inspect', 'image'], dir.path);
  const doctor = await onTerminal(80, ['doctor', pid], dir.path);
  for (const line of `${dump}${inspect}${doctor}`.split('\n')) {
    expect([...line].length, line).toBeLessThanOrEqual(80);
  }
});
