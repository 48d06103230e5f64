/**
 * Clients of the key-value server, in a process of their own so that nothing but the server and the
 * network is measured. Each has one request under way and checks every answer.
 *
 *   node load-generator.js PORT KEYS CLIENTS
 *
 * Obeys its parent: `window` reports since the last one, `pause` ends all requests, `resume` goes on,
 * `sweep` reads every key once. Each is answered by a message.
 */
import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeValue } from './kv-data.js';

/** What clients saw since the last report. Times in milliseconds. */
export interface LoadWindow {
  requests: number;
  medianMs: number;
  longestMs: number;
  /** The first answers that were not what was written, or failed. */
  wrong: string[];
}

export type LoadCommand = 'window' | 'pause' | 'resume' | 'sweep';

const PAUSE_BETWEEN_MS = 2;
const MOST_WRONG = 5;

const [port = 0, keys = 0, clients = 0] = process.argv.slice(2).map(Number);
const agent = new Agent({ keepAlive: true, maxSockets: clients });
const versions = new Uint32Array(keys);
let times: number[] = [];
let wrong: string[] = [];
let paused = true;
let running: Promise<unknown> = Promise.resolve();

function send(method: 'GET' | 'PUT', key: number, body?: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const options = { agent, host: '127.0.0.1', port, method, path: `/${key}` };
    const sent = request(options, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => resolve(Buffer.concat(parts)));
      response.on('error', reject);
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

async function exchange(key: number, write: boolean): Promise<void> {
  const version = (versions[key] ?? 0) + (write ? 1 : 0);
  const value = makeValue(key, version);
  const startMs = performance.now();
  try {
    if (write) {
      await send('PUT', key, value);
      versions[key] = version;
    } else if (!(await send('GET', key)).equals(value)) {
      throw new Error(`key ${key} does not have its version ${version}`);
    }
  } catch (error) {
    if (wrong.length < MOST_WRONG) wrong.push(String(error));
  }
  times.push(performance.now() - startMs);
}

/** Keys are shared out over the clients, so that each knows what its keys hold. */
function keyOf(client: number, turn: number): number {
  return client + clients * (turn % Math.floor(keys / clients));
}

async function runClient(client: number): Promise<void> {
  // A stride without common factor with the number of keys visits them all, far apart.
  for (let turn = 0; !paused; turn += 7919) {
    await exchange(keyOf(client, turn), turn % 10 === 0);
    await sleep(PAUSE_BETWEEN_MS);
  }
}

function eachClient(work: (client: number) => Promise<void>): Promise<unknown> {
  return Promise.all(Array.from({ length: clients }, (_, client) => work(client)));
}

async function sweepClient(client: number): Promise<void> {
  for (let key = client; key < keys; key += clients) await exchange(key, false);
}

function takeWindow(): LoadWindow {
  const sorted = times.sort((a, b) => a - b);
  const window = {
    requests: sorted.length,
    medianMs: sorted[sorted.length >> 1] ?? 0,
    longestMs: sorted.at(-1) ?? 0,
    wrong,
  };
  times = [];
  wrong = [];
  return window;
}

const COMMANDS: Record<LoadCommand, () => Promise<void> | void> = {
  window() {},
  resume() {
    paused = false;
    running = eachClient(runClient);
  },
  async pause() {
    paused = true;
    await running;
  },
  sweep: async () => void (await eachClient(sweepClient)),
};

process.on('message', async (command: LoadCommand) => {
  await COMMANDS[command]();
  process.send?.(takeWindow());
});
process.on('disconnect', () => process.exit());
