/** Directories of CRIU's images: writing them and checking them as a parent. */

export type { PageSpan } from '../image/page_spans.js';
export { type ExportOptions, type ExportResult, exportImage } from './export.js';
export { type CriuTarget, checkCriuParent } from './parent.js';
export { type PreDumpResult, preDumpProcess } from './pre_dump.js';
export {
  type CriuParent,
  type WriteCriuOptions,
  type WrittenCriu,
  writeCriuDirectory,
} from './write_directory.js';
