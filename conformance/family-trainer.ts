import { join } from 'node:path';
import { memoryFiles, nodeFiles } from '@lorikeet/files';
import { loadAdapter } from '@lorikeet/lora';
import { countTrainedTokens } from '@lorikeet/phi3';
import { type StepEvent, train } from '@lorikeet/trainer';
import { adapterParameters } from './family-lora.ts';
import { parameterFindings, trajectoryFindings } from './family-optim.ts';
import { type CaseContext, type Finding, finding } from './findings.ts';
import { type Batch, openModel, readBatch } from './models.ts';
import { exact } from './tolerances.ts';

interface RunOptions {
  readonly model: string;
  readonly adapter: string;
  readonly windows: number;
  readonly steps: number;
  readonly accumulation: number;
  readonly learningRate: number;
  readonly warmupSteps: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
}

/** The trainer's own loop on recorded batches, from the adapter that PEFT began with. */
export async function runTrainerCase(context: CaseContext): Promise<Finding[]> {
  const { recording, testCase, backend } = context;
  const o = testCase.attributes as unknown as RunOptions;
  using model = await openModel(recording, o.model, backend);
  await loadAdapter(nodeFiles(), join(recording.directory, o.adapter), model, { trainable: true });
  const steps: StepEvent[] = [];
  const events = train(model, (batch, options) => model.loss(batch, options), recordedBatches(context, o), {
    files: memoryFiles(),
    outputDir: 'run',
    maxSteps: o.steps,
    gradientAccumulationSteps: o.accumulation,
    learningRate: o.learningRate,
    lrSchedulerType: 'linear',
    warmupSteps: o.warmupSteps,
    weightDecay: o.weightDecay,
    maxGradNorm: o.maxGradNorm,
    saveStrategy: 'no',
  });
  for await (const event of events) if (event.type === 'step') steps.push(event);
  const by = (name: 'loss' | 'gradNorm' | 'learningRate' | 'trainedTokens'): number[] => steps.map((s) => s[name]);
  const tokens = recording.tensor(testCase.outputs.trainedTokens!);
  return [
    finding('trained tokens by step', by('trainedTokens'), tokens, exact),
    ...trajectoryFindings(context, { loss: by('loss'), gradNorm: by('gradNorm'), learningRate: by('learningRate') }),
    ...(await parameterFindings(context, adapterParameters(model))),
  ];
}

/** The recorded micro-batches in their order, again and again. */
function recordedBatches(context: CaseContext, { windows, accumulation }: RunOptions) {
  const all = Array.from({ length: windows * accumulation }, (_, i) => {
    const batch: Batch = readBatch(context, `window${Math.floor(i / accumulation)}/batch${i % accumulation}/`);
    return { ...batch, trainedTokens: countTrainedTokens(batch), lines: [i + 1] };
  });
  let at = 0;
  return {
    batchesPerEpoch: all.length,
    next: () => all[at++ % all.length]!,
    state: () => at,
    restore: (state: number) => {
      at = state;
    },
  };
}
