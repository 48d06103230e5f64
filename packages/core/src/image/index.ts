/** Images: writing, opening, reading, verifying. */
export type { ChainImage } from './chain.js';
export { type Crc32c, nativeCrc32c } from './checksum.js';
export { type FlattenOptions, type FlattenResult, flattenImage } from './flatten.js';
export { createImageDir, createRoundDir, type ImageDir } from './image_dir.js';
export { IN_PARENT, MAX_CHAIN_IMAGES, MAX_ROUND, MAX_SHARDS, roundDir } from './layout.js';
export type {
  Consistency,
  Manifest,
  ManifestLeftOut,
  ManifestProcess,
  ManifestRound,
  ManifestShard,
  ManifestState,
  ManifestThread,
  ManifestVma,
} from './manifest.js';
export { type OpenImageOptions, openImage } from './open_image.js';
export type { PageRun } from './page_table.js';
export { type Image, MAX_READ_BYTES } from './reader.js';
export type { VerifyOptions, VerifyResult } from './verify.js';
export {
  type WriteImageOptions,
  type WriteImageProcess,
  type WriteImageShard,
  writeImage,
} from './writer.js';
