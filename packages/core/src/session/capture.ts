/** The order of a dump as far as the target and the shards are concerned; the image comes after. */
import {
  addon,
  type CaptureResult,
  type LaneAttached,
  type OpenedTarget,
  type SealedShard,
} from '@sluice/native';
import { type Crew, createCrew } from '@sluice/workers';
import PQueue from 'p-queue';
import { fromNative, SluiceError } from '../errors.js';
import { PAGE_BYTES } from '../image/layout.js';
import { partition } from '../schedule/partition.js';
import type { ProgressMeter } from './dump_run.js';
import { NativeSession } from './native_session.js';
import type { ResolvedDumpOptions } from './options.js';

/** Bytes of a shard under one checksum. Small enough to tell where a damage is. */
export const PIECE_BYTES = 1024 * 1024;

/** The process to dump, as it was when it was chosen. */
export interface TargetIdentity {
  pid: number;
  /** Clock ticks after boot: tells a process from a later one with the same pid. */
  startTimeTicks: bigint;
}

/** Everything that the image and the result are made of. */
export interface Captured {
  target: OpenedTarget;
  lanes: LaneAttached[];
  shards: SealedShard[];
  result: CaptureResult;
  /** Wall time of attaching, microseconds. */
  attachUs: number;
  /** From detaching, beside those of `result`. */
  warnings: string[];
}

/**
 * Takes the memory of the target into sealed shards in `dir`. Whatever happens, the target runs and
 * is rid of the helpers when this comes back.
 *
 * @param dir Existing, empty directory.
 * @throws `SluiceError`; `AbortError` if `signal` said so.
 */
export async function captureTarget(
  identity: TargetIdentity,
  dir: string,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<Captured> {
  const { lanes, drains, budgetBytes, capture, io, freezeTimeoutMs } = options;
  const session = new NativeSession(
    { pid: identity.pid, lanes, drains, budgetBytes, capture, io, dir, freezeTimeoutMs },
    signal,
  );
  meter.connect(() => session.counters());
  let crew: Crew | undefined;
  try {
    session.check();
    checkIdentity(identity, session.target);
    crew = createCrew({ lanes, drains });
    return await runSteps(session, crew, options, meter);
  } catch (error) {
    session.fail(error);
    throw session.failure;
  } finally {
    await crew?.close();
    meter.disconnect();
    session.close();
  }
}

function checkIdentity(identity: TargetIdentity, opened: OpenedTarget): void {
  if (identity.startTimeTicks === opened.startTimeTicks) return;
  throw new SluiceError(
    'ERR_SLUICE_NO_SUCH_PROCESS',
    `Process ${identity.pid} has ended; its pid belongs to another process now`,
    { pid: identity.pid },
  );
}

async function runSteps(
  session: NativeSession,
  crew: Crew,
  options: ResolvedDumpOptions,
  meter: ProgressMeter,
): Promise<Captured> {
  const { handle, target } = session;
  const { control, drains } = crew;
  const drainQueue = new PQueue({ concurrency: options.drains });
  const onEachDrain = <Value>(job: (drain: number) => Promise<Value>): Promise<Value>[] =>
    Array.from({ length: options.drains }, (_, drain) => drainQueue.add(() => job(drain)));

  const lanes: LaneAttached[] = [];
  let watched = false;
  let lanesTouched = 0;
  let attachUs = 0;
  let detaching: Promise<string[]> | undefined;
  const detachOnce = () => {
    detaching ??= watched ? detach(session, crew, lanesTouched) : Promise.resolve([]);
    return detaching;
  };
  const attachLanes = async () => {
    const startMs = performance.now();
    for (const [index, lane] of crew.lanes.entries()) {
      lanesTouched++;
      lanes.push(await session.one(lane.call('laneAttach', handle, index)));
    }
    attachUs = Math.round((performance.now() - startMs) * 1000);
  };
  try {
    meter.enter('attach');
    // Threads start slowly and beside each other; a lane that comes late would hold up the next.
    await session.all([control, ...crew.lanes].map((worker) => worker.ready()));
    watched = true;
    await session.one(control.call('controlAttach', handle));
    const surveying = control.call('controlSurvey', handle);
    await session.all<unknown>([attachLanes(), surveying]);

    meter.enter('open');
    const survey = await surveying;
    meter.expectPages(survey.totalPages);
    addon.sessionSetCuts(handle, partition(survey, options.lanes, PAGE_BYTES));
    const shardPages = Math.ceil(survey.totalPages / options.drains);
    await session.all(
      onEachDrain((drain) => drains.call('drainOpen', handle, drain, shardPages * PAGE_BYTES)),
    );

    meter.enter('capture');
    // Control comes last: it waits in native code until the others stand at the gate.
    await session.all<void>([
      ...onEachDrain((drain) => drains.call('drainRun', handle, drain)),
      ...crew.lanes.map((lane, index) => lane.call('laneCapture', handle, index)),
      control.call('controlCapture', handle),
    ]);

    meter.enter('seal');
    // At the same time, so that the target is clean as early as can be.
    const leaving = detachOnce();
    const pieceBytes = options.checksum === 'none' ? 0 : PIECE_BYTES;
    const shards = await session.all(
      onEachDrain((drain) => drains.call('drainSeal', handle, drain, pieceBytes)),
    );
    const warnings = await leaving;
    return { target, lanes, shards, result: addon.sessionResult(handle), attachUs, warnings };
  } finally {
    await detachOnce();
  }
}

/** Ends helpers and watch. What fails here fails for a target that is gone: warnings, no errors. */
async function detach(session: NativeSession, crew: Crew, lanes: number): Promise<string[]> {
  const ended = await Promise.allSettled(
    crew.lanes.slice(0, lanes).map((lane, index) => lane.call('laneDetach', session.handle, index)),
  );
  const warnings = ended.flatMap((outcome, index) =>
    outcome.status === 'rejected'
      ? [`Lane ${index} did not detach cleanly: ${fromNative(outcome.reason).message}`]
      : [],
  );
  try {
    warnings.push(...(await crew.control.call('controlDetach', session.handle)));
  } catch (error) {
    warnings.push(`Detaching did not end cleanly: ${fromNative(error).message}`);
  }
  return warnings;
}
