/** The three dictionaries of Microsoft's sample_finetune.py for Phi-3: every key with its value, in TypeScript's spelling. */

export const trainingConfig = {
  bf16: true,
  doEval: false,
  learningRate: 5.0e-6,
  logLevel: 'info',
  loggingSteps: 20,
  loggingStrategy: 'steps',
  lrSchedulerType: 'cosine',
  numTrainEpochs: 1,
  maxSteps: -1,
  outputDir: './checkpoint_dir',
  overwriteOutputDir: true,
  perDeviceEvalBatchSize: 4,
  perDeviceTrainBatchSize: 4,
  removeUnusedColumns: true,
  saveSteps: 100,
  saveTotalLimit: 1,
  seed: 0,
  gradientCheckpointing: true,
  gradientCheckpointingKwargs: { useReentrant: false },
  gradientAccumulationSteps: 1,
  warmupRatio: 0.2,
} as const;

export const peftConfig = {
  r: 16,
  loraAlpha: 32,
  loraDropout: 0.05,
  bias: 'none',
  taskType: 'CAUSAL_LM',
  targetModules: 'all-linear',
  modulesToSave: null,
} as const;

export const modelKwargs = {
  useCache: false,
  trustRemoteCode: true,
  attnImplementation: 'flash_attention_2',
  torchDtype: 'bfloat16',
  deviceMap: null,
} as const;
