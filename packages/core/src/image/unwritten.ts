/** Reads an image of which only the shards are in files. */
import { AddressSpace } from './address_space.js';
import { nativeCrc32c } from './checksum.js';
import { Mappings } from './mappings.js';
import { Image } from './reader.js';
import { openShards } from './shards.js';
import { StoredPages } from './stored_pages.js';
import { load, manifestOf, type WriteImageOptions } from './writer.js';

/**
 * The image that `writeImage` would publish, without a parent.
 *
 * @throws SluiceError as `writeImage` for contents, and as `openImage` for shards.
 */
export async function openUnwritten(options: WriteImageOptions): Promise<Image> {
  const manifest = manifestOf(options, nativeCrc32c);
  const spaces = manifest.processes.map((process, i) => {
    const records = options.processes[i]?.pageTable ?? new Uint8Array();
    const table = load(records, new Mappings(process), options.shards, false);
    return new AddressSpace(process, new StoredPages([table]), true);
  });
  const chain = [{ dir: options.dir, manifest }];
  return new Image(chain, spaces, await openShards(chain, nativeCrc32c));
}
