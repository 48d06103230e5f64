/** Entry of the `sluice` command. */
import { run } from './run.js';
import { watchStreams, writeErr } from './terminal/output.js';

watchStreams();
const failure = await run(process.argv.slice(2));
if (failure !== undefined) {
  writeErr(`${failure.line}\n`);
  // Not process.exit: what was written must get out, and a thawed target counts more than haste.
  process.exitCode = failure.status;
}
