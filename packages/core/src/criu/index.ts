/** Directories of CRIU's images: writing them and checking them as a parent. */
export { type ExportOptions, type ExportResult, exportImage } from './export.js';
export type { PageSpan } from './spans.js';
export {
  type CriuParent,
  type WriteCriuOptions,
  type WrittenCriu,
  writeCriuDirectory,
} from './write_directory.js';
