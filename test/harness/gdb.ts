/** What gdb makes of a core. */
import { spawn } from 'node:child_process';
import { outcomeOf } from '../unit/cli/run_sluice.js';

export interface GdbThread {
  tid: number;
  /** Names of the functions, the innermost first; null where gdb knows none. */
  frames: (string | null)[];
  /** What was asked for, in decimal, in the first frame of that function. */
  values: Record<string, string>;
}

export interface GdbView {
  /** The thread that gdb shows first. */
  current: number;
  threads: GdbThread[];
  /** What it said on standard error. */
  warnings: string[];
  /** Shared libraries, each with `Yes` if gdb found its symbols. */
  libraries: string[];
}

const SCRIPT = `
import json

def frames_of(thread):
    thread.switch()
    frame = gdb.newest_frame()
    names, values = [], {}
    while frame is not None and len(names) < 200:
        name = frame.name()
        names.append(name)
        if not values and name is not None and name.split("<")[0] == FUNCTION:
            frame.select()
            number = name[len(FUNCTION) + 1:-1]
            values = {e: str(int(gdb.parse_and_eval(e.replace("#", number)))) for e in EXPRESSIONS}
        frame = frame.older()
    return {"tid": thread.ptid[1], "frames": names, "values": values}

current = gdb.selected_thread().ptid[1]
threads = [frames_of(thread) for thread in gdb.selected_inferior().threads()]
libraries = gdb.execute("info sharedlibrary", to_string=True).splitlines()
print("SEEN " + json.dumps({"current": current, "threads": threads, "libraries": libraries}))
`;

/**
 * Opens a core with gdb.
 *
 * @param ask `function`: name of a template; in the first frame of one of it, `expressions` are evaluated,
 * with its argument for `#`.
 */
export async function gdbView(
  program: string,
  core: string,
  ask: { function: string; expressions: string[] } = { function: '', expressions: [] },
): Promise<GdbView> {
  const script = `FUNCTION = ${JSON.stringify(ask.function)}
EXPRESSIONS = ${JSON.stringify(ask.expressions)}
${SCRIPT}`;
  const quiet = ['-nx', '-batch', '-iex', 'set debuginfod enabled off', '-iex', 'set width 0'];
  const run = `python exec(${JSON.stringify(script)})`;
  const gdb = spawn('gdb', [...quiet, '-ex', run, program, core], {
    env: { ...process.env, LC_ALL: 'C' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const { status, stdout, stderr } = await outcomeOf(gdb);
  const seen = /^SEEN (.*)$/m.exec(stdout.toString())?.[1];
  if (status !== 0 || seen === undefined) throw new Error(`gdb: ${stdout.toString()}${stderr}`);
  const view = JSON.parse(seen) as Omit<GdbView, 'warnings'>;
  return { ...view, warnings: stderr.split('\n').filter((line) => line !== '') };
}
