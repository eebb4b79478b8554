/** A run in a process of its own that a test kills: `node kill-child.ts DIR`. Prints `started` when training begins. */
import { nodeFiles } from '@lorikeet/files';
import { tinyRun } from './tiny-run.ts';

await tinyRun({
  files: nodeFiles(),
  outputDir: process.argv[2]!,
  dropout: 0.2,
  gradientAccumulationSteps: 2,
  maxSteps: 60,
  saveSteps: 1,
  loggingSteps: 1,
  resumeFromCheckpoint: 'auto',
  onEvent: (e) => e.type === 'start' && process.stdout.write('started\n'),
});
