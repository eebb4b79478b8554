import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cpu } from '@lorikeet/cpu';
import { memoryFiles, nodeFiles } from '@lorikeet/files';
import { loadConfig } from 'lorikeet';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { chatLines, writeTinyFolder, writeTinyProject } from '../testing/tiny-folder.ts';
import { modelKwargs, peftConfig, trainingConfig } from './dictionaries.ts';
import { sampleConfig, sampleFinetune } from './sample-finetune.ts';

const yamlPath = join(import.meta.dirname, 'config.yaml');
const snakeCase = (key: string): string => key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
const inPython = (value: unknown): unknown =>
  value !== null && typeof value === 'object'
    ? Object.fromEntries(Object.entries(value).map(([key, v]) => [snakeCase(key), inPython(v)]))
    : value;

/** Keys and values of sample_finetune.py (arand013/Phi3-Mini-128K-Construct-Model, commit 8c395553), read off the script. */
const script = {
  training_config: {
    bf16: true, do_eval: false, learning_rate: 5.0e-6, log_level: 'info', logging_steps: 20, logging_strategy: 'steps',
    lr_scheduler_type: 'cosine', num_train_epochs: 1, max_steps: -1, output_dir: './checkpoint_dir', overwrite_output_dir: true,
    per_device_eval_batch_size: 4, per_device_train_batch_size: 4, remove_unused_columns: true, save_steps: 100,
    save_total_limit: 1, seed: 0, gradient_checkpointing: true, gradient_checkpointing_kwargs: { use_reentrant: false },
    gradient_accumulation_steps: 1, warmup_ratio: 0.2,
  },
  peft_config: {
    r: 16, lora_alpha: 32, lora_dropout: 0.05, bias: 'none', task_type: 'CAUSAL_LM', target_modules: 'all-linear', modules_to_save: null,
  },
  model_kwargs: {
    use_cache: false, trust_remote_code: true, attn_implementation: 'flash_attention_2', torch_dtype: 'bfloat16', device_map: null,
  },
}; // biome-ignore format: three dictionaries

describe("sample_finetune.py's dictionaries", () => {
  it('stand in TypeScript and in YAML with every key and value', async () => {
    expect(inPython({ trainingConfig, peftConfig, modelKwargs })).toEqual(script);
    const { path, ...kwargs } = parse(await readFile(yamlPath, 'utf8')).model_kwargs;
    expect(path).toMatch(/Phi-3-mini-4k-instruct$/);
    const yaml = parse(await readFile(yamlPath, 'utf8'));
    expect({ ...yaml, model_kwargs: kwargs, data: undefined }).toEqual({ ...script, data: undefined });
  });

  it('give one configuration, whichever way, and each key that means something else is named once', async () => {
    const yaml = await loadConfig(nodeFiles(), yamlPath);
    const { model, data, training } = yaml.config;
    const typed = sampleConfig({
      modelPath: model.path,
      trainPath: data.train,
      testPath: data.eval!,
      outputDir: training.outputDir,
    });
    expect(typed.config).toEqual(yaml.config);
    expect(training).toMatchObject({
      learningRate: 5e-6, lrSchedulerType: 'cosine', warmupSteps: 0.2, evalStrategy: 'no', saveSteps: 100, saveTotalLimit: 1,
      gradientCheckpointing: true, overwriteOutputDir: true, numTrainEpochs: 1, maxSteps: -1, seed: 0,
    }); // biome-ignore format: values
    expect(yaml.config.peft).toMatchObject({
      r: 16,
      loraAlpha: 32,
      loraDropout: 0.05,
      bias: 'none',
      targetModules: 'all-linear',
    });
    expect(data).toMatchObject({ maxLength: 2048, packing: true, lossOn: 'all' });
    const named = yaml.notes.map((note) => note.slice(0, note.indexOf(':')));
    expect(new Set(named).size).toBe(named.length);
    for (const key of ['bf16', 'attn_implementation', 'trust_remote_code', 'torch_dtype', 'warmup_ratio', 'do_eval'])
      expect(named, key).toContain(key);
  });
});

describe('sample-finetune.ts', () => {
  it('runs as it stands on a tiny Phi-3', async () => {
    const backend = await cpu();
    const files = memoryFiles();
    await writeTinyFolder(files, '/model', backend);
    await files.append('/train.jsonl', new TextEncoder().encode(chatLines(400)));
    await files.append('/test.jsonl', new TextEncoder().encode(chatLines(20)));
    const lines: string[] = [];
    const paths = { modelPath: '/model', trainPath: '/train.jsonl', testPath: '/test.jsonl', outputDir: '/out' };
    const metrics = await sampleFinetune({ files, backend, ...paths, print: (line) => lines.push(line) });
    expect(metrics.evalSamples).toBe(20);
    expect(metrics.evalLoss).toBeGreaterThan(0);
    expect(metrics.perplexity).toBeCloseTo(Math.exp(metrics.evalLoss), 6);
    expect(Number.isFinite(metrics.trainLoss)).toBe(true);
    expect(lines.some((line) => line.startsWith('warmupRatio: '))).toBe(true);
    expect(await files.list('/out')).toEqual(expect.arrayContaining(['adapter', 'all_results.json', 'log.jsonl']));
    const config = JSON.parse(new TextDecoder().decode(await files.read('/out/adapter/adapter_config.json')));
    expect(config).toMatchObject({
      r: 16,
      lora_alpha: 32,
      lora_dropout: 0.05,
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
    });
    await backend.close();
  }, 120_000);
});

describe('config.yaml', () => {
  it('trains from the command line; only model, data and output paths differ', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'sample-'));
    try {
      await writeTinyProject(dir);
      const paths = {
        'model.path': 'model',
        'data.train': 'train.jsonl',
        'data.eval': 'test.jsonl',
        'training.outputDir': 'out',
      };
      const set = Object.entries(paths).flatMap(([key, name]) => ['--set', `${key}=${join(dir, name)}`]);
      const main = join(import.meta.dirname, '../../packages/cli/src/main.ts');
      const { stdout } = await promisify(execFile)(
        process.execPath,
        [main, 'train', '-c', yamlPath, ...set, '--json'],
        { cwd: dir },
      );
      const result = JSON.parse(stdout) as Record<string, unknown>;
      expect(result).toMatchObject({ status: 'finished', evalRows: 20, lossOn: 'all' });
      expect(Number(result.evalLoss)).toBeGreaterThan(0);
      const config = JSON.parse(await readFile(join(dir, 'out/adapter/adapter_config.json'), 'utf8'));
      expect(config).toMatchObject({ r: 16, lora_alpha: 32, lora_dropout: 0.05 });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }, 120_000);
});
