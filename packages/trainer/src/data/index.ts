/** Data sets: reading, splitting, tokens with labels, padding-free batches. */
export {
  type Batch,
  type BatchOptions,
  type BatchSource,
  collate,
  createBatches,
  evaluationBatches,
} from './batches.ts';
export { type ChatDataset, DatasetError, type LoadOptions, loadChatDataset } from './load-chat-dataset.ts';
export { NumpyGenerator } from './numpy-generator.ts';
export { type PackingStrategy, type PackOptions, packExamples, packRows } from './pack-examples.ts';
export { previewRow, type RowPreview, type TokenPreview } from './preview-row.ts';
export type { SampleBy } from './read-text-rows.ts';
export { type ChatTurn, type DataFormat, detectFormat, type Row, type RowProblem } from './row.ts';
export { type Draw, Sampler, type SamplerOptions, type SamplerState } from './sampler.ts';
export { findOverlap, type Overlap, type SplitOptions, shuffleDataset, splitDataset } from './split-dataset.ts';
export {
  type DataTokenizer,
  type Example,
  ignoredLabel,
  type LineCount,
  type LossOn,
  type TokenizedDataset,
  type TokenizeOptions,
  type TokenizeReport,
  tokenizeRow,
  tokenizeRows,
} from './tokenize-rows.ts';
