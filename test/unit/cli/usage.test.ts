/** Wrong usage and plain failures, as a script that runs the command sees them. */
import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { run } from '../../../packages/cli/dist/run.js';
import { temporaryDir, writeSmallImage } from '../image/support.js';
import { sluice } from './run_sluice.js';

/** No pid that a process can have. */
const NO_PID = '4194304';

describe('wrong usage', () => {
  it.each([
    ['', 'There is no command given', 'sluice --help'],
    ['nope', "unknown command 'nope'", 'sluice --help'],
    ['--nope', "unknown option '--nope'", 'sluice --help'],
    ['dump', "required option '--out <dir>' not specified", 'sluice dump --help'],
    ['dump --out x', "missing required argument 'pid'", 'sluice dump --help'],
    ['dump 1', "required option '--out <dir>' not specified", 'sluice dump --help'],
    ['dump 1 2 --out x', 'too many arguments', 'sluice dump --help'],
    ['dump abc --out x', 'Expected a whole number', 'sluice dump --help'],
    ['dump -1 --out x', 'Expected a whole number', 'sluice dump --help'],
    ['dump 0 --out x', 'expected a whole number from 1 to 4194304, got 0', 'sluice dump --help'],
    ['dump 1 --out x --nope', "unknown option '--nope'", 'sluice dump --help'],
    ['dump 1 --out x --lanes 0', '"lanes": expected a whole number from 1 to 64', 'dump --help'],
    ['dump 1 --out x --lanes 65', '"lanes": expected a whole number from 1 to 64', 'dump --help'],
    ['dump 1 --out x --lanes two', 'Expected a whole number', 'sluice dump --help'],
    ['dump 1 --out x --lanes', 'argument missing', 'sluice dump --help'],
    ['dump 1 --out x --capture fast', 'Allowed choices are auto, vmsplice, read', 'dump --help'],
    ['dump 1 --out x --io slow', 'Allowed choices are auto, direct, buffered', 'dump --help'],
    ['dump 1 --out x --checksum md5', 'Allowed choices are crc32c, none', 'dump --help'],
    ['dump 1 --out x --freeze-limit 0', '"freezeLimitMs": expected', 'dump --help'],
    ['dump 1 --out x --freeze-timeout 0', '"freezeTimeoutMs": expected', 'dump --help'],
    ['dump 1 --out=', 'Expected a path', 'sluice dump --help'],
    ['doctor x', 'Expected a whole number', 'sluice doctor --help'],
    ['doctor 4194305', 'expected a whole number from 1 to 4194304', 'sluice doctor --help'],
    ['inspect', "missing required argument 'dir'", 'sluice inspect --help'],
    ['inspect a --yaml', "unknown option '--yaml'", 'sluice inspect --help'],
    ['verify', "missing required argument 'dir'", 'sluice verify --help'],
    ['verify a b', 'too many arguments', 'sluice verify --help'],
    ['flatten', "required option '--out <dir>' not specified", 'sluice flatten --help'],
    ['flatten --out b', "missing required argument 'dir'", 'sluice flatten --help'],
    ['flatten a --out=', 'Expected a path', 'sluice flatten --help'],
    ['flatten a --out b --checksum md5', 'Allowed choices are crc32c, none', 'flatten --help'],
    ['restore a', "required option '--into <pid>' not specified", 'sluice restore --help'],
    ['restore --into 1', "missing required argument 'dir'", 'sluice restore --help'],
    ['restore a --into me', 'Expected a whole number', 'sluice restore --help'],
    ['restore a --into 0', 'expected a whole number from 1 to 4194304, got 0', 'restore --help'],
    ['restore a --into 1 --freeze-timeout 0', '"freezeTimeoutMs": expected', 'restore --help'],
    ['predump 1', "required option '--images-dir <dir>' not specified", 'sluice predump --help'],
    ['predump 0 --images-dir b', 'expected a whole number from 1 to', 'sluice predump --help'],
    ['predump 1 --images-dir b --prev-images-dir=', 'Expected a path', 'sluice predump --help'],
    ['export a --out b', "required option '--format <format>' not", 'sluice export --help'],
    ['export a --out b --format elf', 'Allowed choices are criu', 'sluice export --help'],
    ['diff a', "missing required argument 'b'", 'sluice diff --help'],
    ['read a 1 0x0', "missing required argument 'length'", 'sluice read --help'],
    ['read a 1 zero 1', 'Expected an address', 'sluice read --help'],
    ['read a 1 0x0 -1', 'Expected a number of bytes', 'sluice read --help'],
  ])('"sluice %s" is told in one line', async (line, message, help) => {
    const failure = await run(line.split(' ').filter((word) => word !== ''));
    expect(failure?.line).toMatch(/^sluice: ERR_SLUICE_OPTION: [^\n]+ \(see sluice [^\n]+\)$/);
    expect(failure?.line).toContain(message);
    expect(failure?.line).toContain(help);
    expect(failure?.status).toBe(2);
  });

  it.each(['', 'nope', 'dump 1 --nope', 'dump 1 --out x --lanes 0 --json'])(
    '"sluice %s" says nothing on standard output',
    async (line) => {
      const outcome = await sluice(...line.split(' ').filter((word) => word !== ''));
      expect(outcome.stderr).toMatch(/^sluice: ERR_SLUICE_OPTION: [^\n]+\n$/);
      expect(outcome.stdout.toString()).toBe('');
      expect(outcome.status).toBe(2);
    },
  );
});

describe('failure', () => {
  async function expectFailure(args: readonly string[], code: string): Promise<void> {
    const outcome = await sluice(...args);
    expect(outcome.stderr).toMatch(new RegExp(`^sluice: ${code}: [^\\n]+ \\([^\\n]+\\)\\n$`));
    expect(outcome.stdout.toString()).toBe('');
    expect(outcome.status).toBe(1);
  }

  it('has the code of the error and nothing on standard output', async () => {
    const dir = await temporaryDir();
    const none = join(dir, 'none');
    const full = join(dir, 'full');
    await mkdir(full);
    await writeFile(join(full, 'file'), '');
    await expectFailure(['dump', NO_PID, '--out', none], 'ERR_SLUICE_NO_SUCH_PROCESS');
    await expectFailure(['dump', NO_PID, '--out', none, '--json'], 'ERR_SLUICE_NO_SUCH_PROCESS');
    for (const command of ['inspect', 'verify']) {
      await expectFailure([command, none], 'ERR_SLUICE_IMAGE_NOT_FOUND');
      await expectFailure([command, full], 'ERR_SLUICE_IMAGE_UNFINISHED');
    }
    await expectFailure(['inspect', none, '--json'], 'ERR_SLUICE_IMAGE_NOT_FOUND');
    await expectFailure(['read', none, '1', '0x0', '1'], 'ERR_SLUICE_IMAGE_NOT_FOUND');
  });

  it('is that of the library for addresses that no image can hold', async () => {
    const dir = await temporaryDir();
    await writeSmallImage(dir);
    await expectFailure(['read', dir, '78', '0x0', '1'], 'ERR_SLUICE_NO_SUCH_PROCESS_IN_IMAGE');
    await expectFailure(['read', dir, '77', '0x0', '1'], 'ERR_SLUICE_NOT_MAPPED');
    const outcome = await sluice('read', dir, '77', `0x1${'0'.repeat(16)}`, '1');
    expect(outcome.stderr).toMatch(/^sluice: ERR_SLUICE_OPTION: /);
    expect(outcome.status).toBe(2);
  });
});

describe('help', () => {
  it.concurrent.each(['--help', '-h', 'help', 'dump --help', 'help dump', 'dump nonsense --help'])(
    '"sluice %s" goes to standard output',
    async (line) => {
      const outcome = await sluice(...line.split(' '));
      expect(outcome.stdout.toString()).toMatch(/^Usage: sluice /);
      expect(outcome.stderr).toBe('');
      expect(outcome.status).toBe(0);
      for (const text of outcome.stdout.toString().split('\n')) {
        expect(text.length).toBeLessThanOrEqual(80);
      }
    },
  );

  it('names all commands', async () => {
    const { stdout } = await sluice('--help');
    const commands = ['doctor', 'dump', 'inspect', 'verify', 'read', 'diff', 'flatten', 'export'];
    for (const command of [...commands, 'predump', 'restore']) {
      expect(stdout.toString()).toMatch(new RegExp(`^  ${command} `, 'm'));
    }
  });

  it('is there from the root of the repository', () => {
    const command = fileURLToPath(new URL('../../../node_modules/.bin/sluice', import.meta.url));
    const { status, stdout } = spawnSync(command, ['--version'], { encoding: 'utf8', cwd: '/' });
    expect({ status, stdout }).toEqual({ status: 0, stdout: '0.1.0\n' });
  });
});
