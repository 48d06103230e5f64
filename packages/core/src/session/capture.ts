/** The order of a dump as far as the target and the shards are concerned; the images come after. */
import type {
  LaneAttached,
  OpenedTarget,
  RoundCaptured,
  SealedShard,
  SessionPlaces,
  TrackerAttached,
} from '@sluice/native';
import { addon } from '@sluice/native';
import { type Crew, createCrew } from '@sluice/workers';
import PQueue from 'p-queue';
import { fromNative, SluiceError, withThawed } from '../errors.js';
import type { ImageDir } from '../image/index.js';
import type { ProgressMeter } from './dump_run.js';
import type { HeldSession, Release } from './held.js';
import { NativeSession } from './native_session.js';
import type { ResolvedDumpOptions } from './options.js';
import { RoundRunner } from './rounds.js';

/** Bytes of a shard under one checksum. Small enough to tell where a damage is. */
export const PIECE_BYTES = 1024 * 1024;

/** The process to dump, as it was when it was chosen. */
export interface TargetIdentity {
  pid: number;
  /** Clock ticks after boot: tells a process from a later one with the same pid. */
  startTimeTicks: bigint;
}

/** A round that was taken, with its shards not sealed yet. */
export interface TakenRound {
  kind: 'live' | 'final';
  /** For the addon. */
  number: number;
  /** Its directory. */
  dir: string;
  captured: RoundCaptured;
  /** From the start of the dump until the round began, milliseconds. */
  startMs: number;
}

/** A round with everything that its image is made of. */
export interface CapturedRound extends TakenRound {
  shards: SealedShard[];
}

/** Everything that the images and the result are made of. */
export interface Captured {
  target: OpenedTarget;
  lanes: LaneAttached[];
  tracker: TrackerAttached;
  /** Live ones in their order, then the final one. */
  rounds: [...CapturedRound[], CapturedRound];
  /** Wall time of attaching, microseconds. */
  attachUs: number;
  /** Beside those of the final round. */
  warnings: string[];
  /** The session that holds the target frozen, if that was asked for; it ends with its release. */
  held: HeldSession | undefined;
}

/** Pages in a file, where each has its place. */
export interface PlacedPages {
  places: SessionPlaces;
  /** Makes holes of all pages in the file but those in these parts of it, start and end by turns. */
  clearAllBut(kept: BigUint64Array): Promise<void>;
}

/**
 * Takes the memory of the target into sealed shards in the directory of the image and of its rounds.
 * When this comes back the target is rid of all helpers, and runs; unless it is held.
 *
 * @throws `SluiceError`; `AbortError` if `signal` said so. The target runs then.
 */
export async function captureTarget(
  identity: TargetIdentity,
  imageDir: ImageDir,
  options: ResolvedDumpOptions,
  signal: AbortSignal,
  meter: ProgressMeter,
): Promise<Captured> {
  const { lanes, drains, budgetBytes, capture, io, force } = options;
  const { freezeTimeoutMs, freezeLimitMs } = options;
  const { pid } = identity;
  const { dir } = imageDir;
  const tracker = options.rounds === 0 ? 'none' : options.tracker;
  const consistency = options.after === 'stop' ? 'copy' : options.consistency;
  const handOver = options.handOver !== undefined;
  const placedFile = options.placed?.file ?? '';
  const placesFrom = options.placed?.from ?? 0;
  const known = options.handOver?.known ?? new BigUint64Array();
  const session = new NativeSession(
    {
      pid,
      lanes,
      drains,
      budgetBytes,
      capture,
      io,
      dir,
      placedFile,
      placesFrom,
      tracker,
      consistency,
      force,
      handOver,
      known,
      freezeTimeoutMs,
      freezeLimitMs: freezeLimitMs ?? 0,
    },
    signal,
  );
  meter.connect(() => session.counters());
  const dump = new RunningDump(session, options, meter);
  try {
    session.check();
    checkIdentity(identity, session.target);
    const captured = await dump.run(imageDir);
    if (options.after === 'resume') return captured;
    return { ...captured, held: dump.hold() };
  } catch (error) {
    session.fail(error);
    throw session.failure;
  } finally {
    meter.disconnect();
    await dump.end();
    if (session.hung) imageDir.leave();
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

/** One session with its crew, from attaching to detaching. */
class RunningDump {
  readonly #session: NativeSession;
  readonly #options: ResolvedDumpOptions;
  readonly #meter: ProgressMeter;
  readonly #queue: PQueue;
  #crew: Crew | undefined;
  #watched = false;
  #lanesTouched = 0;
  #detaching: Promise<string[]> | undefined;
  #held = false;

  constructor(session: NativeSession, options: ResolvedDumpOptions, meter: ProgressMeter) {
    this.#session = session;
    this.#options = options;
    this.#meter = meter;
    this.#queue = new PQueue({ concurrency: options.drains });
  }

  async run(imageDir: ImageDir): Promise<Captured> {
    const session = this.#session;
    const meter = this.#meter;
    const { handle, target } = session;
    const { lanes: laneCount, drains, rounds, after } = this.#options;
    this.#crew = createCrew({ lanes: laneCount, drains });
    const crew = this.#crew;

    meter.enter('attach');
    const users = addon.memoryUsers(session.pid);
    const startMs = performance.now();
    // Threads start slowly and beside each other; a lane that comes late would hold up the next.
    await session.all([crew.control, ...crew.lanes].map((worker) => worker.ready()));
    // Not before the others, which are needed first. If it fails, so do the calls to come.
    void crew.drains.ready().catch(() => {});
    this.#watched = true;
    await session.one(crew.control.call('controlAttach', handle));
    const lanes: LaneAttached[] = [];
    for (const [index, lane] of crew.lanes.entries()) {
      this.#lanesTouched++;
      lanes.push(await session.one(lane.call('laneAttach', handle, index)));
    }
    const [firstLane] = crew.lanes;
    const tracker: TrackerAttached =
      rounds === 0 || firstLane === undefined
        ? { tracker: 'none', reason: '' }
        : await session.one(firstLane.call('laneTrack', handle));
    const attachUs = Math.round((performance.now() - startMs) * 1000);

    const runner = new RoundRunner(session, crew, this.#queue, this.#options, meter, imageDir);
    const taken = await runner.run(tracker.tracker);

    meter.enter('seal');
    // At the same time, so that the target is clean as early as can be.
    const leaving = after === 'resume' ? this.#detachOnce() : Promise.resolve([]);
    const sealed: CapturedRound[] = [];
    for (const round of taken) {
      const shards = await this.#seal(round.number);
      sealed.push({ ...round, shards });
    }
    const { warnings } = runner;
    if (users.length > 0) warnings.push(...this.#stillUsing(users));
    const captured = sealed as Captured['rounds'];
    const made = { target, lanes, tracker, rounds: captured, attachUs, warnings, held: undefined };
    await this.#options.placed?.complete(made, this.#placedPages(crew));
    warnings.push(...(await leaving));
    return made;
  }

  /** Whoever was not there before may be a helper, and whoever is gone was about to execute a program. */
  #stillUsing(users: number[]): string[] {
    const now = addon.memoryUsers(this.#session.pid);
    return users
      .filter((pid) => now.includes(pid))
      .map(
        (pid) =>
          `Process ${pid} runs in the same memory and was not stopped: what it wrote in the freeze may be torn`,
      );
  }

  /** Keeps the session, and the target frozen, beyond the dump. */
  hold(): HeldSession {
    this.#held = true;
    this.#crew?.keepAlive(false);
    this.#session.detachSignal();
    return {
      pid: this.#session.pid,
      check: () => this.#checkHeld(),
      release: (how) => this.#release(how),
    };
  }

  /** Always to be called, unless the target is held. Never rejects. */
  async end(): Promise<void> {
    if (this.#held) return;
    await this.#detachOnce();
    await this.#crew?.close(this.#session.hung);
    this.#session.close();
  }

  async #checkHeld(): Promise<void> {
    const { handle, pid } = this.#session;
    try {
      await this.#crew?.control.call('controlRequireHeld', handle);
    } catch (error) {
      throw withThawed(fromNative(error, { pid }), true);
    }
  }

  async #release(how: Release): Promise<void> {
    const crew = this.#crew;
    try {
      crew?.keepAlive(true);
      await crew?.control.call('controlRelease', this.#session.handle, how);
    } catch (error) {
      throw withThawed(fromNative(error, { pid: this.#session.pid }), true);
    } finally {
      this.#held = false;
      await this.end();
    }
  }

  #seal(round: number): Promise<SealedShard[]> {
    const { drains, checksum, durable } = this.#options;
    const pieceBytes = checksum === 'none' ? 0 : PIECE_BYTES;
    const pool = this.#crew?.drains;
    if (pool === undefined) return Promise.resolve([]);
    return this.#session.all(
      Array.from({ length: drains }, (_, drain) =>
        this.#queue.add(() =>
          this.#session.mayHang(
            pool.call('drainSeal', this.#session.handle, drain, round, pieceBytes, durable),
          ),
        ),
      ),
    );
  }

  #placedPages({ drains }: Crew): PlacedPages {
    const { handle } = this.#session;
    return {
      places: addon.sessionPlaces(handle),
      clearAllBut: (kept) => this.#session.one(drains.call('drainClear', handle, kept)),
    };
  }

  #detachOnce(): Promise<string[]> {
    this.#detaching ??= this.#watched ? this.#detach() : Promise.resolve([]);
    return this.#detaching;
  }

  /** Ends helpers and watch. What fails here fails for a target that is gone: warnings, no errors. */
  async #detach(): Promise<string[]> {
    const crew = this.#crew;
    const { handle } = this.#session;
    if (crew === undefined) return [];
    const ended = await Promise.allSettled(
      crew.lanes
        .slice(0, this.#lanesTouched)
        .map((lane, index) => this.#session.mayHang(lane.call('laneDetach', handle, index))),
    );
    const warnings = ended.flatMap((outcome, index) =>
      outcome.status === 'rejected'
        ? [`Lane ${index} did not detach cleanly: ${fromNative(outcome.reason).message}`]
        : [],
    );
    try {
      warnings.push(...(await crew.control.call('controlDetach', handle)));
    } catch (error) {
      warnings.push(`Detaching did not end cleanly: ${fromNative(error).message}`);
    }
    return warnings;
  }
}
