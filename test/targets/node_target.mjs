/**
 * A Node process with some of what real ones have: buffers, objects, a worker thread, timers, a
 * server with an open connection. A busy one makes new objects all the time.
 *
 * Usage: node_target.mjs MEBIBYTES [busy]
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer, request } from 'node:http';
import { createInterface } from 'node:readline';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

function fill(bytes, seed) {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  let value = seed;
  for (let i = 0; i < words.length; i++) {
    value = (Math.imul(value, 1664525) + 1013904223) >>> 0;
    words[i] = value;
  }
  return bytes;
}

const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');

if (isMainThread) await main();
else work();

/** Answers each number with its successor, and counts all the time. */
function work() {
  const own = fill(new Uint8Array(4 << 20), 7);
  const expected = hash(own);
  parentPort.on('message', (number) => {
    parentPort.postMessage({ number: number + 1, intact: hash(own) === expected });
  });
}

async function main() {
  const mebibytes = Number(process.argv[2] ?? 32);
  const buffer = fill(new Uint8Array(mebibytes << 20), 42);
  const expected = hash(buffer);
  const objects = new Map();
  for (let i = 0; i < 50_000; i++) objects.set(`key ${i}`, { i, text: `value of ${i}` });
  // Found in an image by who reads it: nothing else holds this text in one piece.
  const marker = `sluice-marker-${hash(Buffer.from(String(process.pid))).slice(0, 32)}`;
  const held = Buffer.alloc(64 * 1024, `${marker}\n`);

  const worker = new Worker(new URL(import.meta.url));
  const ask = async (number) => {
    worker.postMessage(number);
    const [answer] = await once(worker, 'message');
    return answer;
  };
  let ticks = 0;
  setInterval(() => {
    ticks++;
    JSON.parse(JSON.stringify({ ticks, churn: 'x'.repeat(1000) }));
  }, 1);
  const server = createServer((message, response) => response.end(`echo ${message.url}`));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const get = (path) =>
    new Promise((resolve, reject) => {
      const { port } = server.address();
      const asked = request({ port, host: '127.0.0.1', path, agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part) => {
          text += part;
        });
        response.on('end', () => resolve(text));
      });
      asked.on('error', reject);
      asked.end();
    });

  let turns = 0;
  const wrong = [];
  if (process.argv[3] === 'busy') {
    const recent = new Map();
    const made = (turn) => Array.from({ length: 200 }, (_, i) => ({ turn, text: `${turn} ${i}` }));
    const turnOver = () => {
      turns++;
      const old = recent.get(turns % 500);
      const isRight = ({ turn, text }, i) => turn === turns - 500 && text === `${turn} ${i}`;
      if (old !== undefined && !old.every(isRight)) wrong.push(`objects of turn ${turns - 500}`);
      recent.set(turns % 500, made(turns));
      setImmediate(turnOver);
    };
    turnOver();
  }

  const check = async () => {
    const failed = [...wrong];
    if (hash(buffer) !== expected) failed.push('the buffer changed');
    for (const [key, { i, text }] of objects) {
      if (key !== `key ${i}` || text !== `value of ${i}`) failed.push(`object ${key}`);
    }
    if (!held.toString().startsWith(`${marker}\n${marker}\n`)) failed.push('the marker changed');
    const { number, intact } = await ask(ticks);
    if (number < 1 || !intact) failed.push('the worker');
    if ((await get('/over')) !== 'echo /over') failed.push('the server');
    const before = ticks;
    while (ticks <= before) await new Promise((resolve) => setImmediate(resolve));
    return failed;
  };

  const failed = await check();
  if (failed.length > 0) throw new Error(failed.join());
  console.log(JSON.stringify({ ready: true, pid: process.pid, marker }));
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'exit') break;
    const failed = await check();
    console.log(JSON.stringify(failed.length === 0 ? { ok: true } : { ok: false, failed }));
  }
  process.exit(0);
}
