import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CliError, exitCodes } from '../errors.ts';
import { resolveConfig } from './load-config.ts';
import { nearest } from './nearest.ts';
import { printConfig } from './print-config.ts';
import { keysOf, sectionNames } from './schema.ts';

const least = 'model: {path: base}\ndata: {train: a.jsonl}\n';
const read = (text: string, overrides: readonly string[] = []) => resolveConfig(text, '/work-dir/run.yaml', overrides);

function refusal(text: string, overrides: readonly string[] = []): CliError {
  try {
    read(text, overrides);
  } catch (error) {
    expect(error).toBeInstanceOf(CliError);
    expect((error as CliError).exitCode).toBe(exitCodes.user);
    return error as CliError;
  }
  throw new Error(`must be refused: ${text}`);
}

/** Microsoft's sample_finetune.py, every key of its three dictionaries and of SFTTrainer. */
const sampleFinetune = `
model: base
model_kwargs:
  use_cache: false
  trust_remote_code: true
  attn_implementation: flash_attention_2
  torch_dtype: torch.bfloat16
  device_map: null
data: {train: a.jsonl, eval: b.jsonl}
training_config:
  bf16: true
  do_eval: false
  learning_rate: 5.0e-06
  log_level: info
  logging_steps: 20
  logging_strategy: steps
  lr_scheduler_type: cosine
  num_train_epochs: 1
  max_steps: -1
  output_dir: ./checkpoint_dir
  overwrite_output_dir: true
  per_device_eval_batch_size: 4
  per_device_train_batch_size: 4
  remove_unused_columns: true
  save_steps: 100
  save_total_limit: 1
  seed: 0
  gradient_checkpointing: true
  gradient_checkpointing_kwargs: {use_reentrant: false}
  gradient_accumulation_steps: 1
  warmup_ratio: 0.2
  max_seq_length: 2048
  packing: true
peft_config:
  r: 16
  lora_alpha: 32
  lora_dropout: 0.05
  bias: none
  task_type: CAUSAL_LM
  target_modules: all-linear
  modules_to_save: null
`;

describe('what is accepted', () => {
  test('the least configuration, with every default and paths from the file', () => {
    const { config, notes } = read(least);
    expect(notes).toEqual([]);
    expect(config.model.path).toBe(resolve('/work-dir/base'));
    expect(config.training).toMatchObject({ learningRate: 2e-4, maxSteps: -1, seed: 42, perDeviceTrainBatchSize: 8 });
    expect(config.peft).toMatchObject({ r: 16, loraAlpha: 32, targetModules: 'all-linear' });
  });

  test("the tutorial's own dictionaries: each key is honoured, or named once", () => {
    const { config, notes } = read(sampleFinetune);
    expect(config.training).toMatchObject({
      learningRate: 5e-6, loggingSteps: 20, lrSchedulerType: 'cosine', numTrainEpochs: 1, maxSteps: -1,
      outputDir: resolve('/work-dir/checkpoint_dir'), overwriteOutputDir: true, perDeviceEvalBatchSize: 4, perDeviceTrainBatchSize: 4,
      saveSteps: 100, saveTotalLimit: 1, seed: 0, gradientCheckpointing: true, gradientAccumulationSteps: 1, warmupSteps: 0.2, evalStrategy: 'no',
    }); // biome-ignore format: a table
    expect(config.data).toMatchObject({ maxLength: 2048, packing: true });
    expect(config.peft).toMatchObject({
      r: 16,
      loraAlpha: 32,
      loraDropout: 0.05,
      bias: 'none',
      targetModules: 'all-linear',
    });
    const named = [
      'use_cache', 'trust_remote_code', 'attn_implementation', 'torch_dtype', 'device_map', 'bf16', 'do_eval', 'log_level',
      'remove_unused_columns', 'gradient_checkpointing_kwargs', 'warmup_ratio', 'max_seq_length',
    ]; // biome-ignore format: a table
    expect(notes.map((note) => note.split(':')[0])).toEqual(named);
    expect(notes.find((note) => note.startsWith('bf16'))).toMatch(/arithmetic is f32/);
  });

  test.each([
    ['training: {evaluation_strategy: epoch}', (c: ReturnType<typeof read>) => c.config.training.evalStrategy, 'epoch'],
    ['training: {evaluation_strategy: epoch, do_eval: false}', (c: ReturnType<typeof read>) => c.config.training.evalStrategy, 'epoch'],
    ['training: {assistant_only_loss: true, completion_only_loss: false}', (c: ReturnType<typeof read>) => c.config.data.lossOn, 'assistant'],
    ['training: {lr: 1e-5}', (c: ReturnType<typeof read>) => c.config.training.learningRate, 1e-5],
    ['training: {learning_rate: 2e4}', (c: ReturnType<typeof read>) => c.config.training.learningRate, 2e4],
    ['training: {save_total_limit: null}', (c: ReturnType<typeof read>) => c.config.training.saveTotalLimit, null],
    ['training: {report_to: wandb}', (c: ReturnType<typeof read>) => c.config.training.reportTo, []],
    ['training: {report_to: [tensorboard]}', (c: ReturnType<typeof read>) => c.config.training.reportTo, ['tensorboard']],
    ['quantization: {load_in_4bit: true}', (c: ReturnType<typeof read>) => c.config.quantization, { loadIn4bit: true, loadIn8bit: false, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true, computeDtype: 'f32', llmInt8Threshold: 6 }],
    ['model_kwargs: {quantization_config: {load_in_4bit: true, bnb_4bit_quant_type: fp4, bnb_4bit_use_double_quant: false, bnb_4bit_compute_dtype: bfloat16}}', (c: ReturnType<typeof read>) => c.config.quantization, expect.objectContaining({ loadIn4bit: true, bnb4bitQuantType: 'fp4', bnb4bitUseDoubleQuant: false })],
    ['model_kwargs: {load_in_8bit: true, llm_int8_skip_modules: [lm_head, o_proj]}', (c: ReturnType<typeof read>) => c.config.quantization, expect.objectContaining({ loadIn8bit: true, llmInt8SkipModules: ['lm_head', 'o_proj'] })],
    ['bnb_config: {load_in_4bit: true}', (c: ReturnType<typeof read>) => c.config.quantization.loadIn4bit, true],
    ['lora: {rank: 4}', (c: ReturnType<typeof read>) => c.config.peft.r, 4],
    ['peft: {use_dora: false, inference_mode: false, r: 2}', (c: ReturnType<typeof read>) => c.config.peft.r, 2],
    ['training: {optim: paged_adamw_8bit}', (c: ReturnType<typeof read>) => c.config.training.optim, 'paged_adamw_8bit'],
    ['training: {optim: adamw_hf}', (c: ReturnType<typeof read>) => c.config.training.optim, 'adamw_torch'],
    ['peft: {init_lora_weights: loftq, loftq_config: {loftq_bits: 8}}', (c: ReturnType<typeof read>) => c.config.peft.loftqConfig, { loftqBits: 8 }],
    ['peft: {init_lora_weights: pissa_niter_4, loftq_config: {}}', (c: ReturnType<typeof read>) => [c.config.peft.initLoraWeights, c.config.peft.loftqConfig], ['pissa_niter_4', undefined]],
    ['training: {lr_scheduler_kwargs: {num_cycles: 2, min_lr_rate: 0.1}}', (c: ReturnType<typeof read>) => c.config.training.lrSchedulerOptions, { numCycles: 2, minFactor: 0.1 }],
  ])('%s', (text, pick, expected) => {
    expect(pick(read(least + text))).toEqual(expected);
  }); // biome-ignore format: a table

  test('the command line wins over the file, and its paths are those of the user', () => {
    const { config } = read(`${least}training: {maxSteps: 5, output_dir: out}`, [
      'training.max_steps=7', 'training.outputDir=here', 'peft.targetModules=[o_proj]',
    ]); // biome-ignore format: one call
    expect(config.training.maxSteps).toBe(7);
    expect(config.training.outputDir).toBe(resolve('here'));
    expect(config.peft.targetModules).toEqual(['o_proj']);
  });

  test('both spellings of every key mean the same', () => {
    const snake = (key: string) => key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    const numbers = [
      'loggingSteps',
      'evalSteps',
      'saveSteps',
      'perDeviceTrainBatchSize',
      'gradientAccumulationSteps',
      'maxSteps',
    ];
    for (const key of numbers)
      expect(read(`${least}training: {${snake(key)}: 3}`).config).toEqual(read(`${least}training: {${key}: 3}`).config);
  });

  test('what --print-config prints is read back as the same', () => {
    const { config } = read(sampleFinetune);
    expect(resolveConfig(printConfig(config), '/elsewhere/x.yaml').config).toEqual(config);
  });
});

describe('what is refused, with key, line and advice', () => {
  test.each([
    ['unknown key', `${least}training:\n  learning_rat: 1`, 'training.learning_rat', ':4', 'Did you mean learningRate?'],
    ['unknown key far from all', `${least}training: {qqqqqqqqqqqq: 1}`, 'training.qqqqqqqqqqqq', ':3', 'Remove it.'],
    ['key of another section', `${least}training: {loraAlpha: 1}`, 'training.loraAlpha', ':3', 'Put loraAlpha into the section peft.'],
    ['unknown section', `${least}trainin: {seed: 1}`, 'trainin', ':3', 'Did you mean training?'],
    ['key without section', `${least}learning_rate: 1`, 'learning_rate', ':3', 'Put learning_rate into the section training.'],
    ['rank 0', `${least}lora:\n  rank: 0`, 'peft.r', ':4', undefined],
    ['text for a number', `${least}training:\n  lr: fast`, 'training.learningRate', ':4', undefined],
    ['negative steps', `${least}training: {maxSteps: -2}`, 'training.maxSteps', ':3', undefined],
    ['infinite learning rate', `${least}training: {lr: .inf}`, 'training.learningRate', ':3', undefined],
    ['unknown schedule', `${least}training: {lr_scheduler_type: cosin}`, 'training.lrSchedulerType', ':3', undefined],
    ['no targets', `${least}peft: {target_modules: []}`, 'peft.targetModules', ':3', undefined],
    ['DoRA', `${least}peft: {use_dora: true}`, 'use_dora', ':3', undefined],
    ['another quantizer', `${least}quantization: {quant_method: gptq}`, 'quant_method', ':3', 'Remove this key.'],
    ['trained 8-bit weights', `${least}quantization: {llm_int8_has_fp16_weight: true}`, 'llm_int8_has_fp16_weight', ':3', 'Remove this key.'],
    ['both widths', `${least}quantization: {load_in_4bit: true, load_in_8bit: true}`, 'loadIn8bit', 'run.yaml', 'Choose one of them.'],
    ['unknown codes', `${least}quantization: {bnb_4bit_quant_type: int4}`, 'quantization.bnb4bitQuantType', ':3', undefined],
    ['NEFTune', `${least}training: {neftune_noise_alpha: -5}`, 'training.neftuneNoiseAlpha', ':3', undefined],
    ['DFT', `${least}training: {loss_type: dft}`, 'loss_type', ':3', 'Remove this key.'],
    ['both spellings at once', `${least}training: {lr: 1, learning_rate: 2}`, 'training.learningRate', ':3', 'Remove one of them.'],
    ['duplicate key', 'model: {path: a, path: b}', 'unique', ':1', undefined],
    ['tab as indent', 'model:\n\tpath: a', 'Tabs', ':2', 'Indent with spaces.'],
    ['not YAML', 'model: {path: [}', 'must be YAML', ':1', undefined],
    ['a list', '- a', 'must hold sections', ':1', undefined],
    ['nothing', '', 'must hold sections', ':1', undefined],
    ['section that is a text', `${least}training: fast`, 'training', ':3', undefined],
    ['no model', 'data: {train: a}', 'model.path', 'run.yaml', undefined],
    ['no data', 'model: a', 'data.train', 'run.yaml', undefined],
    ['prototype', `${least}training: {__proto__: {seed: 1}}`, '__proto__', ':3', undefined],
  ])('%s', (_name, text, key, where, fix) => {
    const { message, details } = refusal(text);
    expect(`${message} ${details.found ?? ''}`).toContain(key);
    expect(details.where).toContain(where);
    if (fix) expect(details.fix).toBe(fix);
  }); // biome-ignore format: a table

  test('an alias bomb is refused at once', () => {
    const rows = Array.from(
      { length: 12 },
      (_, i) => `  x${i + 1}: &x${i + 1} [${Array(10).fill(`*x${i}`).join(', ')}]`,
    );
    const start = performance.now();
    const { details } = refusal(`${least}training:\n  x0: &x0 [1]\n${rows.join('\n')}`);
    expect(details.where).toMatch(/run\.yaml:\d+/);
    expect(performance.now() - start).toBeLessThan(1000);
  });

  test.each([
    ['peft: {init_lora_weights: pisa}', "peft.initLoraWeights must be true, false or gaussian, orthogonal, pissa, olora, loftq or pissa_niter_N: got \"pisa\""],
    ['peft: {target_modules: 3}', 'peft.targetModules must be text or list of text: got 3'],
    ['peft: {loftq_config: {loftq_bits: 4}}', "loftqConfig must come with initLoraWeights 'loftq'"],
    ['quantization: {llm_int8_skip_modules: ["("]}', 'quantization: llmInt8SkipModules must be a list of names or regular expressions: got'],
    ['peft: {layers_pattern: layers}', 'layersPattern must come with layersToTransform'],
  ])('%s', (text, message) => {
    expect(refusal(least + text).message).toContain(message);
  }); // biome-ignore format: a table

  test('--set without a key, and one with an unknown key', () => {
    expect(refusal(least, ['maxSteps=3']).message).toContain('section.key=value');
    expect(refusal(least, ['training.max_step=3']).details).toMatchObject({
      where: '--set training.max_step=3',
      fix: 'Did you mean maxSteps?',
    });
  });
});

test('no text at all gives anything but a configuration or an error of code 2, and nothing global changes', () => {
  const keys = fc.constantFrom(
    'model',
    'data',
    'training',
    'peft',
    '__proto__',
    'constructor',
    'lr',
    'r',
    'path',
    'train',
  );
  const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
    value: fc.oneof(
      { depthSize: 'small' },
      fc.string(),
      fc.double(),
      fc.constant(null),
      fc.dictionary(keys, tie('value')),
      fc.array(tie('value'), { maxLength: 3 }),
    ),
  })).value;
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.dictionary(keys, value).map((v) => JSON.stringify(v)),
      ),
      (text) => {
        try {
          read(text);
        } catch (error) {
          expect(error).toBeInstanceOf(CliError);
        }
        expect(({} as Record<string, unknown>).train).toBeUndefined();
        expect(Object.keys(Object.prototype)).toEqual([]);
      },
    ),
  );
});

test('every key is described, and the nearest key is found', () => {
  for (const section of sectionNames) expect(keysOf(section).length).toBeGreaterThan(2);
  expect(nearest('learning_rat', keysOf('training'))).toBe('learningRate');
  expect(nearest('zzzzzzzzzzzzzzzz', keysOf('training'))).toBeUndefined();
});
