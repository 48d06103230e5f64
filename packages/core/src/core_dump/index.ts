/** ELF cores of images and of live processes. */
export { coreProcess } from './core_process.js';
export type { CoreOptions, CoreProcessOptions } from './options.js';
export { type CoreResult, writeCore } from './write.js';
