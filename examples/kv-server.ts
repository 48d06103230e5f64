/**
 * The workload of the main job: a key-value server that keeps all values in memory.
 *
 *   GET /KEY   PUT /KEY     node kv-server.js KEYS
 *
 * Runs below a parent that it tells its port, and ends with it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { makeValue, VALUE_BYTES } from './kv-data.js';

const keys = Number(process.argv[2]);
const values = Array.from({ length: keys }, (_, key) => makeValue(key, 0));

function answer(request: IncomingMessage, response: ServerResponse): void {
  const value = values[Number(request.url?.slice(1))];
  if (value === undefined) {
    response.writeHead(404).end();
  } else if (request.method === 'PUT') {
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => {
      const bytes = Buffer.concat(parts).copy(value);
      response.writeHead(bytes === VALUE_BYTES ? 204 : 400).end();
    });
  } else {
    response.end(value);
  }
}

const server = createServer(answer).listen(0, '127.0.0.1', () => {
  const { port } = server.address() as AddressInfo;
  process.send?.(port);
});
process.on('disconnect', () => process.exit());
