/** What Redis says of the fork that it makes to save: the pause that its clients see. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isInstalled } from './machine.js';
import { runProgram } from './processes.js';

const VALUE_BYTES = 4096;
const MEBI = 1024 ** 2;
const LOOKS = 600;
const LOOK_MS = 100;

export interface RedisFork {
  version: string;
  residentMib: number;
  forkUs: number;
}

/** Of a Redis of its own with about so much in it; `undefined` if it is not installed. */
export async function forkOfRedis(dir: string, mib: number): Promise<RedisFork | undefined> {
  if (!isInstalled('redis-server') || !isInstalled('redis-cli')) return undefined;
  const socket = join(dir, 'redis.sock');
  const options = { port: '0', unixsocket: socket, save: '', dir, 'enable-debug-command': 'local' };
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
  const server = runProgram('redis-server', 'redis-server', args);
  const ask = (...words: string[]) =>
    runProgram('redis-cli', 'redis-cli', ['-s', socket, ...words]);
  try {
    await until(async () => (await ask('ping').catch(() => '')).startsWith('PONG'));
    const count = Math.round((mib * MEBI) / VALUE_BYTES);
    await ask('debug', 'populate', String(count), 'key', String(VALUE_BYTES - 512));
    await ask('bgsave');
    const info = async () => new Map(linesOf(await ask('info')));
    await until(async () => (await info()).get('rdb_bgsave_in_progress') === '0');
    const said = await info();
    return {
      version: said.get('redis_version') ?? '',
      residentMib: Number(said.get('used_memory_rss')) / MEBI,
      forkUs: Number(said.get('latest_fork_usec')),
    };
  } finally {
    await ask('shutdown', 'nosave').catch(() => undefined);
    await server.catch(() => undefined);
  }
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let looks = 0; !(await condition()); looks++) {
    if (looks === LOOKS) throw new Error('Redis did not get ready');
    await sleep(LOOK_MS);
  }
}

function linesOf(info: string): [string, string][] {
  return info.split('\r\n').map((line) => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon), line.slice(colon + 1)];
  });
}
