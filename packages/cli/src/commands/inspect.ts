import { resolve } from 'node:path';
import { type FileSystem, joinPath, manifestName, readJson, verifyManifest } from '@lorikeet/files';
import { adapterConfigName, adapterWeightsName, readQuantizationConfig } from '@lorikeet/lora';
import { parametersIn } from '@lorikeet/nn';
import { indexName, openCheckpoint, openSafetensors, singleName, type TensorReader } from '@lorikeet/safetensors';
import { listCheckpoints, showBytes } from '@lorikeet/trainer';
import type { Command } from 'commander';
import { type Begin, makeCommand, wholeNumber } from '../command.ts';
import { CliError, exitCodes, userError } from '../errors.ts';
import { describeQuantization } from '../model/quantization.ts';
import type { Output } from '../output.ts';
import { formatCount } from '../terminal/format.ts';
import { renderFields, renderTable } from '../terminal/table.ts';
import { showControls } from '../terminal/width.ts';

interface InspectFlags {
  readonly limit: number;
}

/** `lorikeet inspect`: what a file or folder holds; reads headers, never weights. */
export function inspectCommand(begin: Begin): Command {
  return makeCommand('inspect', 'what a safetensors file, model, adapter, checkpoint or run holds')
    .argument('<path>', 'file or folder')
    .option('--limit <n>', 'tensors to list', wholeNumber(0), 40)
    .action(async (given: string, flags: InspectFlags) => {
      const { files, output } = begin({ ...flags });
      const path = resolve(given);
      const kind = await files.kind(path);
      if (kind === undefined) throw userError('inspect: the path must exist: there is nothing.', { where: path });
      const found = kind === 'file' ? await inspectFile(files, path) : await inspectFolder(files, path);
      output.result({ command: 'inspect', path, ...found });
      print(path, found, flags.limit, output);
    });
}

interface TensorRow {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

interface Found {
  readonly kind: 'safetensors' | 'model' | 'adapter' | 'checkpoint' | 'run';
  readonly facts: Readonly<Record<string, unknown>>;
  readonly tensors?: readonly TensorRow[];
  readonly metadata?: Readonly<Record<string, string>>;
}

function tensorsOf(reader: TensorReader): Pick<Found, 'tensors' | 'metadata'> & { facts: Record<string, unknown> } {
  const tensors = [...reader.entries.values()].map(({ name, formatDtype, shape, byteLength }) => ({
    name,
    dtype: formatDtype,
    shape,
    bytes: byteLength,
  }));
  const parameters = [...reader.entries.values()].reduce((sum, { name, dtype, shape }) => {
    const size = shape.reduce((n, dim) => n * dim, 1);
    return sum + parametersIn(name, { dtype, size });
  }, 0);
  const bytes = tensors.reduce((sum, t) => sum + t.bytes, 0);
  return {
    tensors,
    metadata: Object.fromEntries(reader.metadata),
    facts: { tensorCount: tensors.length, parameters, tensorBytes: bytes },
  };
}

async function inspectFile(files: FileSystem, path: string): Promise<Found> {
  if (/\.(bin|pt|pth|ckpt|pkl)$/.test(path))
    throw new CliError(
      exitCodes.data,
      'inspect: pickle files can run any program when they are opened and are never read.',
      {
        where: path,
        fix: 'In Python: save the model with safe_serialization=True.',
      },
    );
  return { kind: 'safetensors', ...tensorsOf(await openSafetensors(files, path)) };
}

async function inspectFolder(files: FileSystem, dir: string): Promise<Found> {
  const has = async (name: string): Promise<boolean> => (await files.kind(joinPath(dir, name))) === 'file';
  if (await has('state.json')) return inspectCheckpoint(files, dir);
  if (await has(adapterConfigName)) return inspectAdapter(files, dir);
  if ((await has(singleName)) || (await has(indexName))) return inspectModel(files, dir);
  const steps = await listCheckpoints(files, dir);
  const summary = (await has('summary.json')) ? await readJson(files, joinPath(dir, 'summary.json')) : null;
  if (steps.length > 0 || summary !== null)
    return {
      kind: 'run',
      facts: { checkpoints: steps.map((step) => `checkpoint-${step}`), ...(summary as object | null) },
    };
  throw new CliError(
    exitCodes.data,
    'inspect: the folder must hold a model, an adapter, a checkpoint or a run: it holds none.',
    {
      where: dir,
      found: (await files.list(dir)).slice(0, 8).join(', ') || 'nothing',
    },
  );
}

async function inspectModel(files: FileSystem, dir: string): Promise<Found> {
  const read = tensorsOf(await openCheckpoint(files, dir));
  const path = joinPath(dir, 'config.json');
  const config = (await files.exists(path)) ? ((await readJson(files, path)) as Record<string, unknown>) : {};
  const names = [
    'model_type',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'vocab_size',
    'max_position_embeddings',
    'tie_word_embeddings',
    'torch_dtype',
    'dtype',
  ];
  const known = Object.fromEntries(
    names.filter((name) => Object.hasOwn(config, name)).map((name) => [name, config[name]]),
  );
  const { quant_method: method = 'bitsandbytes' } = (config.quantization_config ?? {}) as { quant_method?: string };
  const known4bit = config.quantization_config !== undefined && method === 'bitsandbytes';
  const quantization = known4bit ? describeQuantization((await readQuantizationConfig(files, dir))!) : method;
  const quantized = config.quantization_config === undefined ? {} : { quantization };
  return { kind: 'model', ...read, facts: { ...known, ...quantized, ...read.facts } };
}

async function inspectAdapter(files: FileSystem, dir: string): Promise<Found> {
  const config = (await readJson(files, joinPath(dir, adapterConfigName))) as Record<string, unknown>;
  const read = tensorsOf(await openSafetensors(files, joinPath(dir, adapterWeightsName)));
  const names = [
    'peft_type',
    'r',
    'lora_alpha',
    'lora_dropout',
    'target_modules',
    'modules_to_save',
    'bias',
    'use_rslora',
    'base_model_name_or_path',
  ];
  const known = Object.fromEntries(
    names.filter((name) => Object.hasOwn(config, name)).map((name) => [name, config[name]]),
  );
  return { kind: 'adapter', ...read, facts: { ...known, ...read.facts } };
}

async function inspectCheckpoint(files: FileSystem, dir: string): Promise<Found> {
  const complete = await files.exists(joinPath(dir, manifestName));
  if (complete) await verifyManifest(files, dir);
  const state = (await readJson(files, joinPath(dir, 'state.json'))) as Record<string, unknown>;
  const names = ['step', 'totalSteps', 'totalTokens', 'trainedTokens', 'elapsedMs', 'best', 'version', 'backend'];
  const known = Object.fromEntries(
    names.filter((name) => Object.hasOwn(state, name)).map((name) => [name, state[name]]),
  );
  const weights = joinPath(dir, adapterWeightsName);
  const read = (await files.exists(weights)) ? tensorsOf(await openSafetensors(files, weights)) : { facts: {} };
  return { kind: 'checkpoint', ...read, facts: { complete, verified: complete, ...known, ...read.facts } };
}

function print(path: string, { kind, facts, tensors = [], metadata = {} }: Found, limit: number, output: Output): void {
  const shown = (name: string, value: unknown): string =>
    name === 'tensorBytes'
      ? showBytes(value as number)
      : name === 'parameters'
        ? formatCount(value as number)
        : typeof value === 'string'
          ? value
          : JSON.stringify(value);
  output.print(
    renderFields([
      ['path', path],
      ['kind', kind],
      ...Object.entries(facts).map(([name, value]) => [name, showControls(shown(name, value))] as const),
    ]),
  );
  for (const [name, value] of Object.entries(metadata)) output.print(showControls(`metadata ${name}: ${value}`));
  if (tensors.length === 0 || limit === 0) return;
  // What belongs to a quantized weight says little by itself: behind the weights.
  const isState = ({ name }: TensorRow): boolean => /\.weight\.\w/.test(name);
  const listed = [...tensors.filter((t) => !isState(t)), ...tensors.filter(isState)];
  output.print();
  output.print(
    renderTable(
      [{ title: 'tensor', maxColumns: 80 }, { title: 'dtype' }, { title: 'shape' }, { title: 'size', align: 'right' }],
      listed
        .slice(0, limit)
        .map(({ name, dtype, shape, bytes }) => [showControls(name), dtype, `[${shape.join(', ')}]`, showBytes(bytes)]),
    ),
  );
  if (tensors.length > limit) output.print(`... and ${tensors.length - limit} more (--limit ${tensors.length})`);
}
