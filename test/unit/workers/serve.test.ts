import { MessageChannel } from 'node:worker_threads';
import { type OpTable, PinnedWorker, serve, transferables } from '@sluice/workers';
import { describe, expect, it } from 'vitest';

/** A pinned worker without a thread: both ends here, with a table of its own. */
function onThisThread(table: OpTable, allowed = Object.keys(table)): PinnedWorker {
  return new PinnedWorker('test', (port) => serve(port, table, allowed));
}

describe('PinnedWorker and serve', () => {
  it('answers calls in order', async () => {
    const order: number[] = [];
    const worker = onThisThread({
      laneDetach: (session: number, lane: number) => {
        order.push(session, lane);
      },
    });
    await Promise.all([worker.call('laneDetach', 1, 2), worker.call('laneDetach', 3, 4)]);
    expect(order).toEqual([1, 2, 3, 4]);
    await worker.end();
  });

  it('rebuilds errors, and goes on after them', async () => {
    const worker = onThisThread({
      laneDetach: (session: number) => {
        if (session !== 0) throw Object.assign(new Error('gone'), { code: 'ERR_SLUICE_SYSTEM' });
      },
    });
    await expect(worker.call('laneDetach', 1, 0)).rejects.toMatchObject({
      message: 'gone',
      code: 'ERR_SLUICE_SYSTEM',
    });
    await worker.call('laneDetach', 0, 0);
    await worker.end();
  });

  it('refuses what is not on its list', async () => {
    const worker = onThisThread({ controlAttach: () => {} }, ['laneAttach']);
    await expect(worker.call('controlAttach', 1)).rejects.toThrow('controlAttach');
    await expect(worker.call('laneAttach', 1, 0)).rejects.toThrow('laneAttach');
    await worker.end();
  });

  it('answers calls that were made before the end, and refuses those after it', async () => {
    const worker = onThisThread({ controlDetach: () => ['note'] });
    const before = worker.call('controlDetach', 1);
    await worker.end();
    expect(await before).toEqual(['note']);
    await expect(worker.call('controlDetach', 1)).rejects.toMatchObject({
      code: 'ERR_SLUICE_WORKER',
    });
    await worker.end();
  });

  it('rejects waiting calls when its thread dies', async () => {
    let die = (_: Error) => {};
    const worker = new PinnedWorker(
      'lane 3',
      () =>
        new Promise((_, reject) => {
          die = reject;
        }),
    );
    const waiting = worker.call('controlAttach', 1);
    die(new Error('out of memory'));
    await expect(waiting).rejects.toMatchObject({
      code: 'ERR_SLUICE_WORKER',
      message: 'The lane 3 worker died: out of memory',
    });
    await worker.end();
  });

  it('moves typed arrays instead of copying them', async () => {
    const starts = BigUint64Array.of(1n, 2n);
    const worker = onThisThread({ controlPrepare: () => ({ starts, totalPages: 2 }) });
    const survey = await worker.call('controlPrepare', 1, 'whole', false, 0);
    expect([...survey.starts]).toEqual([1n, 2n]);
    expect(starts.byteLength).toBe(0);
    await worker.end();
  });

  it('ends when the other side is gone', async () => {
    const { port1, port2 } = new MessageChannel();
    const served = serve(port2, {}, []);
    port1.close();
    await served;
  });
});

describe('transferables', () => {
  it('finds typed arrays in a value and one level below', () => {
    const bytes = new Uint8Array(8);
    expect(transferables(bytes)).toEqual([bytes.buffer]);
    expect(transferables({ a: bytes, b: new Float64Array(bytes.buffer), c: 'x' })).toEqual([
      bytes.buffer,
    ]);
    expect(transferables([bytes])).toEqual([bytes.buffer]);
  });

  it('leaves parts of larger buffers, shared memory and plain values', () => {
    expect(transferables(new Uint8Array(8).subarray(1))).toEqual([]);
    expect(transferables(new Uint8Array(new SharedArrayBuffer(8)))).toEqual([]);
    expect(transferables(undefined)).toEqual([]);
    expect(transferables(null)).toEqual([]);
    expect(transferables(7)).toEqual([]);
    expect(transferables({ deep: { bytes: new Uint8Array(8) } })).toEqual([]);
  });
});
