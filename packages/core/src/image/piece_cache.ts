/** Most bytes of verified pieces that are kept for the next read, if it is more than one piece. */
const CACHE_BYTES = 32 * 1024 * 1024;

interface Entry {
  bytes: number;
  piece: Promise<Uint8Array>;
}

/** Pieces of shards that were read and verified. One for all images of a chain. */
export class PieceCache {
  /** In the order of their last use. */
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  /** @param load Called if the piece is not there; one that failed is not kept. */
  get(key: string, bytes: number, load: () => Promise<Uint8Array>): Promise<Uint8Array> {
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { bytes, piece: load() };
      entry.piece.catch(() => this.#remove(key));
    }
    this.#remove(key);
    this.#entries.set(key, entry);
    this.#bytes += bytes;
    for (const oldest of this.#entries.keys()) {
      if (this.#bytes <= CACHE_BYTES || this.#entries.size === 1) break;
      this.#remove(oldest);
    }
    return entry.piece;
  }

  clear(): void {
    this.#entries.clear();
    this.#bytes = 0;
  }

  #remove(key: string): void {
    this.#bytes -= this.#entries.get(key)?.bytes ?? 0;
    this.#entries.delete(key);
  }
}
