/** Phi-3 with LoRA on all linears over a library of arrays, from the same files as ours: rows padded at their end. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { openSafetensors } from '@lorikeet/safetensors';
import type { LoraStepSpec } from '../peer.ts';
import type { ArrayLibrary } from './array-library.ts';
import { attention, causalMask, countLabels, crossEntropy, rmsNorm, rope, swiglu } from './compositions.ts';

export interface LoraLoss<T> {
  /** First values of all A and B. */
  readonly adapters: readonly Stored[];
  readonly weights: readonly T[];
  /** The part of the batch that is done: all, or a piece of a row where all would not fit. */
  readonly share: number;
  /** The batch in parts, whose losses add up to that of the batch. */
  readonly parts: readonly Part<T>[];
}

export interface Part<T> {
  /** Tables and tokens: what `loss` takes after the weights. */
  readonly constants: readonly T[];
  loss(adapters: readonly T[], constants: readonly T[]): T;
}

export interface Stored {
  readonly values: Float32Array;
  readonly shape: readonly number[];
}

async function readTensors(path: string): Promise<Map<string, Stored>> {
  const reader = await openSafetensors(nodeFiles(), path);
  const tensors = new Map<string, Stored>();
  for (const [name, { dtype, shape }] of reader.entries) {
    const { buffer } = await reader.read(name);
    if (dtype !== 'f32' && dtype !== 'bf16')
      throw new TypeError(`bench: ${name} of ${path} must be f32 or bf16: got ${dtype}. Store it as one of these.`);
    const values = dtype === 'f32' ? new Float32Array(buffer) : widened(new Uint16Array(buffer));
    tensors.set(name, { values, shape });
  }
  return tensors;
}

/** bf16 is the upper half of f32. */
function widened(halves: Uint16Array): Float32Array {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  return new Float32Array(bits.buffer);
}

interface Config {
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads?: number;
  readonly num_hidden_layers: number;
  readonly vocab_size: number;
  readonly intermediate_size: number;
  readonly rms_norm_eps: number;
  readonly rope_theta?: number;
  readonly rope_parameters?: { readonly rope_theta?: number };
}

const linears = ['self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj'];
const norms = ['input_layernorm', 'post_attention_layernorm'];
const readJson = <V>(folder: string, name: string): V => JSON.parse(readFileSync(join(folder, name), 'utf8')) as V;

/** Ids and labels [rows, length] with the labels moved one to the left; places after a row's end do not count. */
function padded(rows: LoraStepSpec['rows']): { ids: Int32Array; labels: Int32Array; length: number } {
  const length = Math.max(...rows.map((row) => row.ids.length));
  const ids = new Int32Array(rows.length * length);
  const labels = new Int32Array(rows.length * length).fill(-100);
  for (const [r, row] of rows.entries()) {
    ids.set(row.ids, r * length);
    labels.set(row.labels.subarray(1), r * length);
  }
  return { ids, labels, length };
}

/** cos and sin [length, width / 2]. */
function ropeTables(length: number, width: number, theta: number): [Float32Array, Float32Array] {
  const half = width / 2;
  const angles = Float64Array.from({ length: length * half }, (_, i) => {
    return Math.floor(i / half) / theta ** (((i % half) * 2) / width);
  });
  return [Float32Array.from(angles, Math.cos), Float32Array.from(angles, Math.sin)];
}

/** Most bytes of logits at once: jax-js has 4 GiB for everything and keeps several arrays of their size. */
export const mostLogitBytes = 48 * 2 ** 20;

/** Weights above which the end of one row stands for the batch: jax-js and tfjs have 4 and 2 GiB, and the time is minutes. */
const mostElements = 64 * 2 ** 20;
const fewTokens = 64;

const totalElements = (tensors: ReadonlyMap<string, Stored>): number =>
  [...tensors.values()].reduce((sum, { values }) => sum + values.length, 0);

/** The end of a row, where labels count. */
const endOf = ({ ids, labels }: LoraStepSpec['rows'][number]): LoraStepSpec['rows'][number] => ({
  ids: ids.subarray(-fewTokens),
  labels: labels.subarray(-fewTokens),
});

/** Rows that go together, so many that their logits stay below the limit. */
function partsOf(rows: LoraStepSpec['rows'], vocabulary: number, most: number): LoraStepSpec['rows'][] {
  const longest = Math.max(...rows.map((row) => row.ids.length));
  const count = Math.max(1, Math.floor(most / (4 * longest * vocabulary)));
  return Array.from({ length: Math.ceil(rows.length / count) }, (_, i) => rows.slice(i * count, (i + 1) * count));
}

export async function loraLoss<T>(of: ArrayLibrary<T>, spec: LoraStepSpec, mostBytes: number): Promise<LoraLoss<T>> {
  const config = readJson<Config>(spec.model, 'config.json');
  const heads = config.num_attention_heads;
  if ((config.num_key_value_heads ?? heads) !== heads)
    throw new RangeError('bench: the peers do LoRA on models with as many key heads as query heads.');
  const { r, lora_alpha: alpha } = readJson<{ r: number; lora_alpha: number }>(spec.adapter, 'adapter_config.json');
  const files = await readTensors(join(spec.model, 'model.safetensors'));
  const stored = await readTensors(join(spec.adapter, 'adapter_model.safetensors'));
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => `model.layers.${i}`);
  const paths = layers.flatMap((layer) => linears.map((name) => `${layer}.${name}`));
  const adapters = paths.flatMap((path) =>
    ['lora_A', 'lora_B'].map((name) => found(stored, `base_model.model.${path}.${name}.weight`)),
  );
  const head = files.has('lm_head.weight') ? 'lm_head' : 'model.embed_tokens';
  const names = [
    ...paths,
    ...layers.flatMap((layer) => norms.map((name) => `${layer}.${name}`)),
    ...['model.embed_tokens', 'model.norm', head],
  ];
  const weights = names.map((name) => {
    const { values, shape } = found(files, `${name}.weight`);
    return of.array(values, shape);
  });
  const model = { config, layers, paths, names, head, scale: alpha / r };
  const isLarge = totalElements(files) > mostElements;
  const batch = isLarge ? [endOf(spec.rows[0]!)] : spec.rows;
  const tokens = (rows: LoraStepSpec['rows']): number => rows.reduce((sum, { ids }) => sum + ids.length, 0);
  const counted = batch.reduce((sum, { labels }) => sum + countLabels(labels.subarray(1)), 0);
  const parts = partsOf(batch, config.vocab_size, mostBytes).map((rows) => partLoss(of, model, rows, counted));
  return { adapters, weights, parts, share: tokens(batch) / tokens(spec.rows) };
}

interface Model {
  readonly config: Config;
  readonly layers: readonly string[];
  readonly paths: readonly string[];
  /** Of the weights, in their order. */
  readonly names: readonly string[];
  readonly head: string;
  readonly scale: number;
}

function partLoss<T>(of: ArrayLibrary<T>, model: Model, rows: LoraStepSpec['rows'], counted: number): Part<T> {
  const { config, layers, paths, names, head, scale } = model;
  const { hidden_size: d, num_attention_heads: heads, intermediate_size: f, rms_norm_eps: eps } = config;
  const { ids, labels, length } = padded(rows);
  const [batch, width] = [rows.length, d / heads];
  const [cos, sin] = ropeTables(length, width, config.rope_parameters?.rope_theta ?? config.rope_theta ?? 10_000);
  const constants = [
    of.array(cos, [length, width / 2]),
    of.array(sin, [length, width / 2]),
    of.array(causalMask(length, length), [length, length]),
    of.array(ids, [batch * length]),
    of.array(labels, [batch * length]),
  ];
  const loss = (parameters: readonly T[], given: readonly T[]): T => {
    const weightAt = new Map(names.map((name, i) => [name, given[i]!]));
    const [c, s, mask, tokens, targets] = given.slice(names.length) as [T, T, T, T, T];
    const linear = (path: string, x: T): T => {
      const at = 2 * paths.indexOf(path);
      const low = of.matmul(x, parameters[at]!, false, true);
      const update = of.mul(of.matmul(low, parameters[at + 1]!, false, true), scale);
      return of.add(of.linear(x, weightAt.get(path)!), update);
    };
    const norm = (path: string, x: T): T => rmsNorm(of, x, weightAt.get(path)!, eps);
    const columns = (x: T, begin: number, count: number): T => of.slice(x, [0, begin], [batch * length, count]);
    const headed = (x: T): T => of.permute(of.reshape(x, [batch, length, heads, width]), [0, 2, 1, 3]);
    const turned = (x: T): T => rope(of, headed(x), c, s, [batch, heads, length, width]);

    let x = of.rows(weightAt.get('model.embed_tokens')!, tokens);
    for (const layer of layers) {
      const qkv = linear(`${layer}.self_attn.qkv_proj`, norm(`${layer}.input_layernorm`, x));
      const [q, k, v] = [0, d, 2 * d].map((begin) => columns(qkv, begin, d)) as [T, T, T];
      const mixed = attention(of, turned(q), turned(k), headed(v), mask, width);
      const joined = of.reshape(of.permute(mixed, [0, 2, 1, 3]), [batch * length, d]);
      x = of.add(x, linear(`${layer}.self_attn.o_proj`, joined));
      const gateUp = linear(`${layer}.mlp.gate_up_proj`, norm(`${layer}.post_attention_layernorm`, x));
      const mlp = swiglu(of, columns(gateUp, 0, f), columns(gateUp, f, f));
      x = of.add(x, linear(`${layer}.mlp.down_proj`, mlp));
    }
    const logits = of.linear(norm('model.norm', x), weightAt.get(head)!);
    return crossEntropy(of, logits, targets, config.vocab_size, counted);
  };
  return { constants, loss };
}

function found(tensors: ReadonlyMap<string, Stored>, name: string): Stored {
  const tensor = tensors.get(name);
  if (!tensor) throw new RangeError(`bench: ${name} must be in the files: it is not.`);
  return tensor;
}
