import { nativeCrc32c } from '@sluice/core/image';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { naiveCrc32c } from './support.js';

test('the CRC32C of the addon is that of the standard, and of the naive one', () => {
  // The check value that catalogues of checksums give for CRC-32C.
  expect(nativeCrc32c(Buffer.from('123456789'), 0)).toBe(0xe3069283);
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 3000 }),
      fc.nat(3000),
      fc.nat(17),
      (bytes, cut, skip) => {
        const part = bytes.subarray(skip);
        const first = nativeCrc32c(part.subarray(0, cut), 0);
        expect(nativeCrc32c(part.subarray(cut), first)).toBe(naiveCrc32c(part, 0));
      },
    ),
  );
});
