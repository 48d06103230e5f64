/**
 * A program that does one piece of work of Sluice, for tests that stop, hang or limit the dumper itself. Its
 * argument is a job in JSON, see dumper.ts. It says what happens in lines, the last of them the outcome.
 */
import { readdirSync, readFileSync, readSync, writeSync } from 'node:fs';
import { coreProcess, dumpProcess, preDumpProcess, restoreInto } from '@sluice/core';
import { addon } from '@sluice/native';

const job = JSON.parse(process.argv[2] ?? '');
const { work, pid, faults = [], block, release } = job;
/** Patient, as in patient.ts. */
const options = { freezeTimeoutMs: 60_000, ...job.options };

function say(line) {
  writeSync(1, `${line}\n`);
}

/** As a main thread that computes for ever, but that a line on standard input ends it. */
function hang() {
  say('hangs');
  readSync(0, Buffer.alloc(1));
}

function isFrozen() {
  try {
    return readdirSync(`/proc/${pid}/task`).every((tid) => {
      const stat = readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1');
      return stat.slice(stat.lastIndexOf(')') + 2).startsWith('t');
    });
  } catch {
    return false;
  }
}

let running = true;

function hangWhenFrozen() {
  if (isFrozen()) hang();
  else if (running) setImmediate(hangWhenFrozen);
}

async function perform() {
  switch (work) {
    case 'dump': {
      const { held, ...result } = await dumpProcess(pid, options);
      if (block === 'held') hang();
      if (held !== null) await held[release]();
      return result;
    }
    case 'core':
      return coreProcess(pid, options);
    case 'predump':
      return preDumpProcess(pid, options);
    case 'restore': {
      const { image, ...rest } = options;
      return restoreInto(pid, image, { force: true, ...rest });
    }
    default:
      throw new Error(`No work is called ${work}`);
  }
}

addon.setFaults(faults);
if (block === 'frozen') hangWhenFrozen();
try {
  say(JSON.stringify({ code: null, result: await perform() }));
} catch (error) {
  const { code, name, message, thawed, syscall, errno } = error;
  say(JSON.stringify({ code: code ?? name, message, thawed, syscall, errno }));
} finally {
  running = false;
}
