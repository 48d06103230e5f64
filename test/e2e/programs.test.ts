/**
 * Programs that nobody here wrote, at work: they are dumped in rounds, and neither they nor those who
 * use them notice. Each is also stopped once by a dump, and its image compared with its memory.
 */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import { type Dump, dumpOf, type Options } from '../harness/dump.js';
import { leakCheck } from '../harness/leaks.js';
import { whileHeld } from '../harness/oracle.js';
import { childrenOf, orGone, stateOf } from '../harness/procfs.js';
import { missingPrograms, Program, runProgram, unprivileged } from '../harness/program.js';
import { startTarget, type TestTarget } from '../harness/target.js';
import { TempDir } from '../harness/temp.js';
import { assertClean, assertUntouched, viewOf } from '../harness/untouched.js';
import { waitFor, within } from '../harness/wait.js';

leakCheck();

const LIMIT_MS = 300_000;
const DUMPS = 4;

const noRedis = missingPrograms('redis-server', [
  'redis-server',
  'redis-cli',
  'redis-benchmark',
  'redis-check-rdb',
]);
const noPostgres = missingPrograms('postgresql', ['initdb', 'postgres', 'psql', 'pgbench']);
const noPython = missingPrograms('python3', ['python3']);

describe('dumped in rounds at work', () => {
  it('redis-server under redis-benchmark', { timeout: LIMIT_MS }, async (ctx) => {
    if (noRedis !== undefined) ctx.skip(noRedis);
    await using dir = new TempDir();
    await using redis = await Redis.start(dir.path);
    await redis.fill();
    const before = viewOf(redis.pid);
    await using clients = new Clients(redis);

    const commands = await redis.figure('total_commands_processed');
    await dumpSeveralTimes(redis.pid);
    expect((await redis.figure('total_commands_processed')) - commands).toBeGreaterThan(1000);
    await redis.check();

    await compareHeld(redis.pid);
    await redis.check();
    await clients.end();
    await assertUntouched(redis.pid, before, { busy: true });
    await dumpAtRest(redis.pid);
    await redis.check();
  });

  it('redis-server that saves in a child', { timeout: LIMIT_MS }, async (ctx) => {
    if (noRedis !== undefined) ctx.skip(noRedis);
    await using dir = new TempDir();
    await using redis = await Redis.start(dir.path);
    await redis.fill();
    await using clients = new Clients(redis);
    const before = viewOf(redis.pid);

    let saves = 0;
    const saving = new Repetition(async () => {
      await redis.save();
      saves++;
    });
    while (saves < 2) await dumpSeveralTimes(redis.pid);
    await saving.end();
    await redis.check();

    // A child that is made after the rounds began and before the freeze, and lives on beyond it.
    for (let forked = false; !forked; ) {
      let begun: Promise<void> | undefined;
      let isBegun = false;
      const atRound = () => {
        begun ??= redis.beginSave().then(() => {
          isBegun = true;
        });
      };
      await compareHeld(redis.pid, { rounds: 12 }, atRound, () => {
        forked = isBegun;
        return true;
      });
      await begun;
      await redis.saved();
    }
    await clients.end();
    await assertUntouched(redis.pid, before, { busy: true });
    await redis.check();
    await runProgram('redis-check-rdb', [dir.join('dump.rdb')]);
  });

  it('a PostgreSQL backend', { timeout: LIMIT_MS }, async (ctx) => {
    if (noPostgres !== undefined) ctx.skip(noPostgres);
    await using dir = new TempDir().open();
    await using cluster = await Cluster.start(dir);
    await using session = await Session.connect(cluster);
    const { pid } = session;
    await using work = new Repetition(() => session.work());
    // Others work on the same shared buffers.
    await using load = new Repetition(() => cluster.benchmark());

    await dumpSeveralTimes(pid);
    await work.once();
    await load.once();

    // To be compared with the image, shared memory must stand still from the freeze on.
    for (let inTime = false; !inTime; ) {
      const startMs = performance.now();
      const others = new Halted(cluster.pid, pid);
      try {
        await compareHeld(
          pid,
          { rounds: 40 },
          () => others.halt(),
          ({ result }) => {
            const finalMs = startMs + (result.rounds.at(-1)?.start_time ?? 0) / 1000;
            inTime = others.haltedMs !== undefined && others.haltedMs < finalMs;
            return inTime;
          },
        );
      } finally {
        await others.resume();
      }
    }
    await work.end();
    await load.end();
    await dumpAtRest(pid);
    await session.work();
    await session.end();
  });

  it('a Python process', { timeout: LIMIT_MS }, async (ctx) => {
    if (noPython !== undefined) ctx.skip(noPython);
    await using target = await startTarget('python_target.py', ['32', 'busy']);
    await dumpTarget(target);
  });

  it('a Node process', { timeout: LIMIT_MS }, async () => {
    await using target = await startTarget('node_target.mjs', ['32', 'busy']);
    await dumpTarget(target);
  });
});

async function dumpTarget(target: TestTarget): Promise<void> {
  await target.check();
  const before = viewOf(target.pid);
  await using checks = new Repetition(() => target.check());
  await dumpSeveralTimes(target.pid);
  await checks.once();
  await compareHeld(target.pid);
  await checks.once();
  await checks.end();
  await assertUntouched(target.pid, before, { busy: true });
}

async function dumpSeveralTimes(pid: number): Promise<void> {
  for (let turn = 0; turn < DUMPS; turn++) {
    await using dump = await dumpOf(pid, { lanes: 1 + (turn % 2) });
    await assertClean(pid);
    expectRounds(dump);
    if (turn === 0) await dump.image.verify();
  }
}

/** One that must leave every mapping as it was, since the process does nothing itself. */
async function dumpAtRest(pid: number): Promise<void> {
  let before = viewOf(pid);
  // It may still be closing what its clients have left.
  await waitFor('it closes nothing any more', async () => {
    await sleep(200);
    const { descriptors } = before;
    before = viewOf(pid);
    return isDeepStrictEqual(before.descriptors, descriptors);
  });
  await using dump = await dumpOf(pid);
  await assertClean(pid);
  await assertUntouched(pid, before);
  await dump.image.verify();
}

/**
 * Dumps a process that is held then, and lets it go on.
 *
 * @param isSteady Whether nobody else writes to its memory, which then equals the image.
 */
async function compareHeld(
  pid: number,
  options: Options = {},
  atRound?: () => void,
  isSteady: (dump: Dump) => boolean = () => true,
): Promise<void> {
  await using dump = await dumpOf(pid, { ...options, after: 'stop' }, atRound);
  const { held } = dump.result;
  if (held === null) throw new Error('It is not held');
  try {
    expectRounds(dump);
    await whileHeld(pid, async (memory) => {
      if (!isSteady(dump)) return;
      expect((await memory.compare(dump.image)).bytes).toBeGreaterThan(100_000n);
    });
  } finally {
    await held.resume();
  }
  await assertClean(pid);
  await dump.image.verify();
}

function expectRounds({ result }: Dump): void {
  const { rounds, tracker } = result;
  expect(rounds.at(-1)?.kind).toBe('final');
  expect(rounds.length > 1).toBe(tracker !== 'none');
}

/** Does something again and again, until it is ended or has failed. */
class Repetition implements AsyncDisposable {
  readonly #work: () => Promise<unknown>;
  readonly #running: Promise<void>;
  #done = 0;
  #ending = false;
  #failure: { error: unknown } | undefined;

  constructor(work: () => Promise<unknown>) {
    this.#work = work;
    this.#running = this.#run();
  }

  /** Waits until all of it was done once more. */
  async once(): Promise<void> {
    // What is under way may have begun long ago.
    const enough = this.#done + 2;
    await waitFor('it was done again', () => this.#done >= enough || this.#failure !== undefined);
    this.#check();
  }

  async end(): Promise<void> {
    this.#ending = true;
    await within('the last one to be done', this.#running);
    this.#check();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ending) await this.end();
  }

  #check(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  async #run(): Promise<void> {
    try {
      while (!this.#ending) {
        await this.#work();
        this.#done++;
      }
    } catch (error) {
      this.#failure = { error };
    }
  }
}

/** Waits until a server can be reached. */
async function readiness(server: Program): Promise<void> {
  const isReady = () => /ready to accept connections/i.test(server.output);
  await waitFor('the server is ready', () => isReady() || !server.running);
  if (!isReady()) throw new Error(`The server ended: ${server.output}`);
}

const KEYS = 100_000;
const VALUE_BYTES = 1000;
const CHECKED_KEYS = 2_000;

const valueAt = (key: number) => `value-of-${key}-`.repeat(80).slice(0, VALUE_BYTES);

/** A server of its own, with keys whose values are known. */
class Redis implements AsyncDisposable {
  readonly pid: number;
  readonly socket: string;
  readonly #server: Program;

  private constructor(server: Program, socket: string) {
    this.#server = server;
    this.pid = server.pid;
    this.socket = socket;
  }

  static async start(dir: string): Promise<Redis> {
    const socket = `${dir}/redis`;
    const settings = { port: '0', unixsocket: socket, dir, save: '', appendonly: 'no' };
    const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]);
    const server = new Program('redis-server', args);
    try {
      await readiness(server);
    } catch (error) {
      await server.end();
      throw error;
    }
    return new Redis(server, socket);
  }

  async fill(): Promise<void> {
    const commands = Array.from({ length: KEYS }, (_, key) =>
      protocol('SET', `known:${key}`, valueAt(key)),
    );
    const said = await this.#cli(['--pipe'], commands.join(''));
    expect(said).toContain(`errors: 0, replies: ${KEYS}`);
    await this.check();
  }

  /** Some of the keys, all the way through. */
  async check(): Promise<void> {
    const keys = Array.from({ length: CHECKED_KEYS }, (_, i) => i * (KEYS / CHECKED_KEYS));
    const said = await this.#cli([], keys.map((key) => `GET known:${key}\n`).join(''));
    const values = said.trimEnd().split('\n');
    expect(keys.filter((key, index) => values[index] !== valueAt(key))).toEqual([]);
    expect(await this.figure('total_error_replies')).toBe(0);
  }

  /** A number that the server knows. */
  async figure(name: string): Promise<number> {
    return Number(await this.#info(name));
  }

  async beginSave(): Promise<void> {
    expect(await this.#cli(['BGSAVE'])).toContain('Background saving started');
  }

  /** Waits until the child has saved everything. */
  async saved(): Promise<void> {
    const isSaving = async () => (await this.#info('rdb_bgsave_in_progress')) !== '0';
    await waitFor('it is saved', async () => !(await isSaving()));
    expect(await this.#info('rdb_last_bgsave_status')).toBe('ok');
  }

  async save(): Promise<void> {
    await this.beginSave();
    await this.saved();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server.end();
  }

  async #info(name: string): Promise<string | undefined> {
    const lines = (await this.#cli(['INFO'])).split('\r\n');
    return lines.find((line) => line.startsWith(`${name}:`))?.slice(name.length + 1);
  }

  #cli(args: string[], input = ''): Promise<string> {
    return runProgram('redis-cli', ['-s', this.socket, ...args], input);
  }
}

function protocol(...words: string[]): string {
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return `*${words.length}\r\n${parts.join('')}`;
}

/** redis-benchmark all the time, and beside it one client that looks at each answer. */
class Clients implements AsyncDisposable {
  readonly #benchmark: Repetition;
  readonly #counting: Repetition;
  readonly #socket: Socket;
  readonly #answers: AsyncIterator<string>;
  #count = 0;

  constructor({ socket }: Redis) {
    this.#socket = connect(socket);
    this.#answers = createInterface({ input: this.#socket })[Symbol.asyncIterator]();
    this.#counting = new Repetition(() => this.#increment());
    const tests = ['set', 'get', 'incr', 'lpush', 'lpop', 'hset'];
    const limits = '-n 20000 -c 20 -r 20000 -d 500 --csv'.split(' ');
    this.#benchmark = new Repetition(async () => {
      const args = ['-s', socket, '-t', tests.join(), ...limits];
      const said = await runProgram('redis-benchmark', args);
      const names = said
        .split('\n')
        .flatMap((line) => /^"(\w+)","[0-9.]+"/.exec(line)?.[1]?.toLowerCase() ?? []);
      expect(names).toEqual(tests);
    });
  }

  async #increment(): Promise<void> {
    const isFirst = this.#count === 0;
    this.#socket.write(isFirst ? 'DEL counted\r\nINCR counted\r\n' : 'INCR counted\r\n');
    if (isFirst) await this.#answers.next();
    const { value } = await within('an answer', this.#answers.next());
    this.#count++;
    expect(value).toBe(`:${this.#count}`);
  }

  /** Fails if any request was not answered, or not as it should be. */
  async end(): Promise<void> {
    await this.#benchmark.once();
    await this.#benchmark.end();
    await this.#counting.end();
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#benchmark[Symbol.asyncDispose]();
      await this.#counting[Symbol.asyncDispose]();
    } finally {
      this.#socket.destroy();
    }
  }
}

/** A PostgreSQL server in a directory of its own, reached by a socket there. */
class Cluster implements AsyncDisposable {
  readonly pid: number;
  readonly client: string[];
  readonly #server: Program;

  private constructor(server: Program, client: string[]) {
    this.#server = server;
    this.pid = server.pid;
    this.client = client;
  }

  static async start(dir: TempDir): Promise<Cluster> {
    const data = dir.join('data');
    const user = { cwd: dir.path, ...unprivileged() };
    const initial = ['-D', data, '-U', 'tester', '-A', 'trust', '-E', 'UTF8', '--no-sync'];
    await runProgram('initdb', [...initial, '--no-locale'], '', user);
    const settings = {
      listen_addresses: '',
      unix_socket_directories: dir.path,
      shared_buffers: '64MB',
      fsync: 'off',
    };
    const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const args = ['-D', data, ...options];
    const server = new Program('postgres', args, { ...user, endSignal: 'SIGINT' });
    const cluster = new Cluster(server, ['-h', dir.path, '-U', 'tester']);
    try {
      await readiness(server);
      await runProgram('pgbench', [...cluster.client, '-i', '-q', '-I', 'dtgp', 'postgres']).catch(
        // It tells of its progress on standard error.
        (error: Error) => expect(error.message).toContain('ended with 0'),
      );
    } catch (error) {
      await server.end();
      throw error;
    }
    return cluster;
  }

  async benchmark(): Promise<void> {
    const args = [...this.client, '-n', '-c', '2', '-t', '1000', 'postgres'];
    const said = await runProgram('pgbench', args);
    expect(said).toContain('number of transactions actually processed: 2000/2000');
    expect(said).toContain('number of failed transactions: 0');
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server.end();
  }
}

const SORTED = 200_000;

/** A client with a backend of its own. */
class Session implements AsyncDisposable {
  readonly pid: number;
  readonly #psql: Program;
  readonly #lines: AsyncIterator<string>;
  #turn = 0;

  private constructor(psql: Program, lines: AsyncIterator<string>, pid: number) {
    this.#psql = psql;
    this.#lines = lines;
    this.pid = pid;
  }

  static async connect(cluster: Cluster): Promise<Session> {
    const args = [...cluster.client, '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', 'postgres'];
    const psql = new Program('psql', args);
    if (psql.child.stdout === null) throw new Error('psql has no output');
    const lines = createInterface({ input: psql.child.stdout })[Symbol.asyncIterator]();
    const session = new Session(psql, lines, 0);
    const [pid] = await session.query('SELECT pg_backend_pid()');
    await session.query(`SET max_parallel_workers_per_gather = 0; SET work_mem = '64MB';
      CREATE TABLE counted (turn int); INSERT INTO counted VALUES (0);
      CREATE TEMP TABLE own AS SELECT i, md5(i::text) AS text FROM generate_series(1, ${SORTED}) i`);
    return new Session(psql, lines, Number(pid));
  }

  /** The rows that it answers with. */
  async query(sql: string): Promise<string[]> {
    this.#psql.child.stdin?.write(`${sql};\n\\echo over\n`);
    const rows: string[] = [];
    for (;;) {
      const { value, done } = await within('psql to answer', this.#lines.next());
      if (done) throw new Error(`psql ended: ${this.#psql.output}`);
      if (value === 'over') return rows;
      rows.push(value);
    }
  }

  /** Writes to memory of its own and to shared buffers, and knows what has to come out. */
  async work(): Promise<void> {
    this.#turn++;
    const [sorted] = await this.query(`SELECT count(*), sum(length(text)), bool_and(ordered) FROM
      (SELECT text, text >= lag(text, 1, '') OVER (ORDER BY text) AS ordered FROM own) s`);
    expect(sorted).toBe(`${SORTED}|${32 * SORTED}|t`);
    const [turn] = await this.query('UPDATE counted SET turn = turn + 1 RETURNING turn');
    expect(turn).toBe(String(this.#turn));
  }

  async end(): Promise<void> {
    this.#psql.child.stdin?.end();
    await this.#psql.succeeded();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#psql.running) await this.#psql.end();
  }
}

/** All processes of a cluster but one, to be stopped for a while. */
class Halted {
  /** When all of them stood still. */
  haltedMs: number | undefined;
  readonly #server: number;
  readonly #spared: number;
  readonly #pids: number[] = [];
  #halting: Promise<void> | undefined;

  constructor(server: number, spared: number) {
    this.#server = server;
    this.#spared = spared;
  }

  halt(): void {
    this.#halting ??= this.#halt();
  }

  async resume(): Promise<void> {
    await this.#halting;
    for (const pid of this.#pids) {
      orGone(() => process.kill(pid, 'SIGCONT'));
    }
  }

  async #halt(): Promise<void> {
    // The server first: it makes new ones.
    await this.#stop([this.#server]);
    await this.#stop(childrenOf(this.#server).filter((pid) => pid !== this.#spared));
    this.haltedMs = performance.now();
  }

  async #stop(pids: number[]): Promise<void> {
    this.#pids.push(...pids);
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    const isHalted = (pid: number) => ['T', 'Z'].includes(stateOf(pid) ?? 'Z');
    await waitFor('all others are halted', () => pids.every(isHalted));
  }
}
