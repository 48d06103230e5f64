/** The rounds of a dump: live ones as long as they pay, then the final one under freeze. */
import { addon, type RoundKind, type Survey, type TrackerName } from '@sluice/native';
import type { Crew } from '@sluice/workers';
import type PQueue from 'p-queue';
import { SluiceError } from '../errors.js';
import { type ImageDir, MAX_SHARDS } from '../image/index.js';
import { PAGE_BYTES } from '../image/layout.js';
import { partition } from '../schedule/partition.js';
import { type Decision, decide, type RoundMeasure } from '../schedule/policy.js';
import type { TakenRound } from './capture.js';
import type { ProgressMeter } from './dump_run.js';
import type { NativeSession } from './native_session.js';
import type { ResolvedDumpOptions } from './options.js';

/** Failures that another round would meet again. */
const FATAL = new Set([
  'ERR_SLUICE_TARGET_EXITED',
  'ERR_SLUICE_TARGET_EXECED',
  'ERR_SLUICE_NO_SUCH_PROCESS',
  'ERR_SLUICE_ALREADY_TRACED',
  'ERR_SLUICE_PERMISSION',
  'ERR_SLUICE_FREEZE_TIMEOUT',
  'ERR_SLUICE_FREEZE_LIMIT',
  'ERR_SLUICE_DISK_FULL',
  'ERR_SLUICE_OUTPUT_NOT_WRITABLE',
  'ERR_SLUICE_DIRECT_IO_UNAVAILABLE',
  'ERR_SLUICE_WORKER',
]);

/** More never pay. */
const MOST_AUTO_ROUNDS = 30;

/** Room that is made for pages copied under freeze, beyond what is expected. */
const COPY_MARGIN = 2;
const LEAST_COPY_PAGES = 1024;
/** Pages that are looked at in the time in which one is copied. */
const LOOKS_PER_COPY = 300;

export class RoundRunner {
  /** For people. */
  readonly warnings: string[] = [];
  readonly #session: NativeSession;
  readonly #crew: Crew;
  readonly #queue: PQueue;
  readonly #options: ResolvedDumpOptions;
  readonly #meter: ProgressMeter;
  readonly #imageDir: ImageDir;
  readonly #taken: TakenRound[] = [];
  readonly #measured: RoundMeasure[] = [];
  #mayTwin = false;
  #mayRepeat = false;
  /** When the pages of the last live round were collected. */
  #collectedMs = 0;
  /** Of the first look: all pages that exist. */
  #existing: Survey | undefined;

  constructor(
    session: NativeSession,
    crew: Crew,
    queue: PQueue,
    options: ResolvedDumpOptions,
    meter: ProgressMeter,
    imageDir: ImageDir,
  ) {
    this.#session = session;
    this.#crew = crew;
    this.#queue = queue;
    this.#options = options;
    this.#meter = meter;
    this.#imageDir = imageDir;
  }

  /** Takes all rounds. */
  async run(tracker: TrackerName): Promise<TakenRound[]> {
    const { after, consistency } = this.#options;
    // This tracker has a helper, which a twin needs.
    this.#mayTwin = after === 'resume' && consistency !== 'copy' && tracker === 'uffd-wp';
    // Another tracker would need one more freeze for it.
    this.#mayRepeat =
      after === 'resume' && this.#options.rounds === 'auto' && tracker === 'uffd-wp';
    // Without a tracker every round would be a full one, and the freeze not a bit shorter.
    const live = this.#options.rounds === 'auto' ? tracker !== 'none' : this.#options.rounds > 0;
    if (this.#options.handOver?.only) await this.#takeOnly('live');
    else if (live) await this.#takeRounds();
    else await this.#takeOnly('whole');
    return this.#taken;
  }

  /** One round and no other: all under one freeze, or all that was written while the target runs. */
  async #takeOnly(kind: 'whole' | 'live'): Promise<void> {
    this.#meter.enter('open');
    // Asked for a copy, it is taken like that of a target that stays stopped: then nothing has to fit.
    const { after, consistency } = this.#options;
    const mayTwin = kind === 'whole' && after === 'resume' && consistency !== 'copy';
    const survey = await this.#prepare(kind, mayTwin);
    const { round, totalPages } = survey;
    this.#meter.expectPages(totalPages);
    const taken = kind === 'live' ? 'live' : 'final';
    this.#enterRound(taken, totalPages, { pagesPerSecond: 0, freezeMs: 0 });
    this.#cut(round, survey);
    const { dir } = this.#imageDir;
    await this.#session.all(this.#open(round, dir, totalPages));
    this.#meter.enter('capture');
    const startMs = this.#meter.elapsedMs;
    await this.#session.all(this.#capture(round, round));
    this.#finish(taken, round, dir, startMs);
  }

  /** Live rounds, and the final one when they do not pay any more. */
  async #takeRounds(): Promise<void> {
    for (let failed = 0; ; ) {
      const lookedMs = this.#meter.elapsedMs;
      const survey = await this.#prepare('live');
      if (this.#measured.length === 0) this.#existing = survey;
      const decision = this.#decide(survey.totalPages);
      const { next } = decision;
      if (next === 'fail') throw this.#notConverging(decision);
      this.#meter.enter('capture');
      this.#enterRound(next === 'freeze' ? 'final' : 'live', survey.totalPages, decision);
      this.#meter.expectPages(survey.totalPages);
      const failure =
        next === 'freeze'
          ? await this.#takeFinal(survey)
          : await this.#takeLive(survey, lookedMs, next === 'last');
      if (failure === undefined) {
        if (next !== 'round') return;
        failed = 0;
        continue;
      }
      // What it had collected is owed to the next round, and taken then.
      if (failed++ > 0 || next === 'freeze' || FATAL.has(codeOf(failure))) throw failure;
      this.warnings.push(`A round was taken again: ${failure.message}`);
    }
  }

  /**
   * Takes a live round. If it is the last one, another one of what is written meanwhile and the final round
   * follow at once, without a line of JavaScript between them: what is written in the time that the next
   * look and the drains take is far more. What goes wrong is returned, and leaves nothing of them.
   */
  async #takeLive(survey: Survey, lookedMs: number, last: boolean): Promise<Error | undefined> {
    const { round, totalPages } = survey;
    const lives: { number: number; dir: ImageDir }[] = [];
    const openLive = async (number: number, pages: number) => {
      const dir = await this.#imageDir.createRound(this.#taken.length + lives.length + 1);
      lives.push({ number, dir });
      return this.#session.attempt(this.#open(number, dir.dir, pages));
    };
    this.#cut(round, survey);
    let failure = await openLive(round, totalPages);
    if (last && failure === undefined && this.#fitsTwice(survey)) {
      failure = await openLive(await this.#repeat(round), 0);
    }
    const final = last && failure === undefined ? await this.#prepareFinal(survey) : undefined;
    this.#collectedMs = performance.now();
    let startMs = this.#meter.elapsedMs;
    failure ??= await this.#session.attempt(this.#capture(round, final ?? round));
    if (failure !== undefined) {
      for (const { dir } of lives) await dir.discard();
      await this.#imageDir.clear();
      return failure;
    }
    for (const { number, dir } of lives) {
      const { captured } = this.#finish(
        'live',
        number,
        dir.dir,
        number === round ? lookedMs : startMs,
      );
      startMs += captured.memdumpUs / 1000;
      this.#options.placed?.afterRound();
      this.#measured.push({
        pages: captured.pagesWritten,
        ms: this.#meter.elapsedMs - lookedMs,
      });
    }
    if (final !== undefined) this.#finish('final', final, this.#imageDir.dir, startMs);
    return undefined;
  }

  /** Whether two more live rounds and the final one all find room in the slots, so that none waits. */
  #fitsTwice(survey: Survey): boolean {
    const { budgetBytes, lanes } = this.#options;
    // Cut by all pages, most of those that are left may be one lane's.
    const slotBytes = this.#finalCuts(survey) === survey ? budgetBytes : budgetBytes / lanes;
    return this.#mayRepeat && survey.totalPages * PAGE_BYTES * 3 <= slotBytes;
  }

  /** What the final round is cut by: whether its time goes to looking at all pages, or to copying some. */
  #finalCuts(survey: Survey): Survey {
    const existing = this.#existing ?? survey;
    return survey.totalPages * LOOKS_PER_COPY < existing.totalPages ? existing : survey;
  }

  async #takeFinal(survey: Survey): Promise<Error | undefined> {
    const final = await this.#prepareFinal(survey);
    const startMs = this.#meter.elapsedMs;
    await this.#session.all(this.#capture(final, final));
    this.#finish('final', final, this.#imageDir.dir, startMs);
    return undefined;
  }

  /** Everything that can be done before the freeze. Returns the number of the final round. */
  async #prepareFinal(survey: Survey): Promise<number> {
    const { totalPages } = survey;
    const copy = this.#options.after === 'resume';
    const copyPages = Math.max(LEAST_COPY_PAGES, totalPages * COPY_MARGIN);
    const { round } = await this.#prepare('final', copy, copyPages);
    this.#cut(round, this.#finalCuts(survey));
    await this.#session.all(this.#open(round, this.#imageDir.dir, totalPages));
    return round;
  }

  #decide(dirtyPages: number): Decision {
    const measured = this.#measured;
    const mostRounds = Math.min(
      MOST_AUTO_ROUNDS,
      Math.floor(MAX_SHARDS / this.#options.drains) - 1,
    );
    const mostAutoRounds = mostRounds - (this.#mayRepeat ? 1 : 0);
    return decide(
      { ...this.#options, mostAutoRounds, twin: this.#mayTwin },
      {
        rounds: measured,
        dirtyPages,
        sinceCollectedMs: measured.length === 0 ? 0 : performance.now() - this.#collectedMs,
        existingPages: this.#existing?.totalPages ?? 0,
        elapsedMs: this.#meter.elapsedMs,
      },
    );
  }

  #notConverging({ freezeMs, pagesPerSecond }: Decision): SluiceError {
    const { pid } = this.#session;
    // Not known before a round was taken.
    const rate =
      pagesPerSecond > 0 ? `: it writes to ${Math.round(pagesPerSecond)} pages a second` : '';
    return new SluiceError(
      'ERR_SLUICE_NO_CONVERGENCE',
      `Process ${pid} would be frozen for about ${freezeMs.toFixed(1)} ms, longer than allowed${rate}`,
      { pid, thawed: true },
    );
  }

  #enterRound(
    kind: 'live' | 'final',
    pages: number,
    { pagesPerSecond, freezeMs }: Pick<Decision, 'pagesPerSecond' | 'freezeMs'>,
  ): void {
    const number = this.#taken.length + 1;
    this.#meter.enterRound({ number, kind, pages, pagesPerSecond, predictedFreezeMs: freezeMs });
  }

  #prepare(kind: RoundKind, copy = false, copyPages = 0): Promise<Survey> {
    const { handle } = this.#session;
    return this.#session.one(
      this.#crew.control.call('controlPrepare', handle, kind, copy, copyPages),
    );
  }

  /** Makes a live round that takes what is written while another one is taken. */
  #repeat(round: number): Promise<number> {
    return this.#session.one(this.#crew.control.call('controlRepeat', this.#session.handle, round));
  }

  #cut(round: number, survey: Survey): void {
    addon.sessionSetCuts(
      this.#session.handle,
      round,
      partition(survey, this.#options.lanes, PAGE_BYTES),
    );
  }

  /** Opens the shards of a round. */
  #open(round: number, dir: string, pages: number): Promise<void>[] {
    const { handle } = this.#session;
    const shardPages = Math.ceil(pages / this.#options.drains);
    return this.#onEachDrain((drain) =>
      this.#crew.drains.call('drainOpen', handle, drain, round, dir, shardPages * PAGE_BYTES),
    );
  }

  #capture(first: number, last: number): Promise<void>[] {
    const { handle } = this.#session;
    const { control, lanes, drains } = this.#crew;
    // Control comes last: it waits in native code until the others stand at the gate.
    return [
      ...this.#onEachDrain((drain) => drains.call('drainRun', handle, drain, first, last)),
      ...lanes.map((lane, index) =>
        this.#session.mayHang(lane.call('laneCapture', handle, index, first, last)),
      ),
      control.call('controlCapture', handle, first, last, this.#options.after),
    ];
  }

  #onEachDrain<Value>(job: (drain: number) => Promise<Value>): Promise<Value>[] {
    return Array.from({ length: this.#options.drains }, (_, drain) =>
      this.#queue.add(() => this.#session.mayHang(job(drain))),
    );
  }

  #finish(kind: 'live' | 'final', number: number, dir: string, startMs: number): TakenRound {
    const captured = addon.sessionFinishRound(this.#session.handle, number);
    const round = { kind, number, dir, captured, startMs };
    this.#taken.push(round);
    return round;
  }
}

function codeOf(error: Error): string {
  return SluiceError.isSluiceError(error) ? error.code : '';
}
