/** The public API of Sluice. What is not named here may change at any time. */
export {
  type Check,
  inspectSystem,
  inspectTarget,
  type SystemReport,
  type TargetReport,
} from './capabilities.js';
export { type CleanResult, cleanTarget } from './clean.js';
export {
  type CoreOptions,
  type CoreProcessOptions,
  type CoreResult,
  coreProcess,
  writeCore,
} from './core_dump/index.js';
export type { ExportOptions, ExportResult } from './criu/export.js';
export { exportImage, preDumpProcess } from './criu/lazy.js';
export type { PreDumpResult } from './criu/pre_dump.js';
export type { DumpTrace } from './diagnostics.js';
export {
  type DiffOptions,
  type DiffProcess,
  type DiffResult,
  type DiffVma,
  diffImages,
} from './diff/diff_images.js';
export {
  AbortError,
  ERRORS,
  type ErrorEntry,
  SluiceError,
  type SluiceErrorCode,
  type SluiceErrorDetails,
} from './errors.js';
export {
  type ChainImage,
  type Consistency,
  type FlattenOptions,
  type FlattenResult,
  flattenImage,
  type Image,
  type Manifest,
  type ManifestLeftOut,
  type ManifestProcess,
  type ManifestRound,
  type ManifestShard,
  type ManifestState,
  type ManifestThread,
  type ManifestVma,
  type OpenImageOptions,
  openImage,
  type PageRun,
  type VerifyOptions,
  type VerifyResult,
} from './image/index.js';
export { type RestoreResult, restoreInto } from './restore/restore_into.js';
export type { DumpRun } from './session/dump_run.js';
export type { HeldTarget } from './session/held.js';
export type {
  DumpOptions,
  Logger,
  PreDumpOptions,
  RestoreOptions,
  TargetOptions,
} from './session/options.js';
export type {
  DumpPhase,
  DumpProgress,
  DumpResult,
  LeftOut,
  RoundProgress,
  RoundResult,
} from './session/result.js';
export { dumpProcess, openTarget, type Target } from './session/target.js';
