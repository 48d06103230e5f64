/**
 * Runs a command in the virtual machine: node test/vm/run.mjs [--timeout SECONDS] -- COMMAND...
 * Its output and exit status are those of the command; 125 if the machine itself failed.
 */
import { parseArgs } from 'node:util';
import { prepareVm, runInVm, VmError } from './machine.mjs';

const { values, positionals } = parseArgs({
  options: { timeout: { type: 'string', default: '600' } },
  allowPositionals: true,
});
if (positionals.length === 0 || !(Number(values.timeout) > 0)) {
  process.stderr.write('usage: node test/vm/run.mjs [--timeout SECONDS] -- COMMAND...\n');
  process.exit(2);
}
try {
  prepareVm();
  const { status } = await runInVm({
    command: positionals,
    cwd: process.cwd(),
    timeoutMs: Number(values.timeout) * 1000,
    onOutput: (chunk) => process.stdout.write(chunk),
  });
  process.exitCode = status;
} catch (error) {
  if (!(error instanceof VmError)) throw error;
  process.stderr.write(`${error.code}: ${error.message}\n`);
  process.exitCode = 125;
}
