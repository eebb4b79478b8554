/**
 * loralib's tutorial (README of microsoft/LoRA), step by step: `node examples/loralib.ts`.
 *
 * A small transformer has learned that each token is followed by the next one. LoRA teaches it that it is the third one after. Steps 2 to
 * 5 are those of the README's Quickstart, the notes those of its Additional Notes.
 */
import { cpu } from '@lorikeet/cpu';
import { type FileSystem, joinPath, nodeFiles } from '@lorikeet/files';
import * as lora from '@lorikeet/lora';
import { AdamW, Embedding, Linear, type LinearLike, Module, type StateSource, trainableParameters } from '@lorikeet/nn';
import { openSafetensors, writeSafetensors } from '@lorikeet/safetensors';
import { type Backend, type DType, noGrad, randomKey, scope, type Tensor, tensor } from '@lorikeet/tensor';

const vocabularySize = 24;
const width = 32;
const length = 12;

/** One block of a transformer. With LoRA or without: paths and shapes of the base's parameters are the same. */
class BigModel extends Module {
  embed_tokens: Embedding;
  qkv_proj: LinearLike;
  lm_head: LinearLike;

  constructor(backend: Backend, { withLora }: { readonly withLora: boolean }) {
    super();
    const init = (name: string) => ({ backend, key: randomKey(7, name) });
    this.embed_tokens = Embedding.init(vocabularySize, width, init('embed_tokens'));

    // 2. Replace some layers by their counterparts. Before, and after:
    this.lm_head = withLora
      ? new lora.Linear(width, vocabularySize, { r: 16, ...init('lm_head') })
      : Linear.init(width, vocabularySize, init('lm_head'));

    // Note 2. One linear that stands for q, k and v: MergedLinear adapts q and v alone.
    this.qkv_proj = withLora
      ? new lora.MergedLinear(width, 3 * width, { r: 8, enableLora: [true, false, true], ...init('qkv_proj') })
      : Linear.init(width, 3 * width, init('qkv_proj'));
    this.assignPaths();
  }

  /** Logits [t, v] of sequences one after another. */
  forward(ids: Int32Array, lengths: readonly number[]): Tensor {
    return scope(() => {
      const x = this.embed_tokens.forward(ids);
      const heads = this.qkv_proj.forward(x).split([width, width, width]);
      const [q, k, v] = heads.map((part) => part.reshape([ids.length, 1, width])) as [Tensor, Tensor, Tensor];
      const attended = q.attention(k, v, { lengths, scale: width ** -0.5 }).reshape([ids.length, width]);
      return this.lm_head.forward(x.add(attended).silu());
    });
  }
}

/** Sequences that count up by `stride`. */
function batchOf(stride: number, step: number) {
  const starts = Array.from({ length: 8 }, (_, i) => (step * 5 + i * 3) % vocabularySize);
  const at = (start: number, i: number): number => (start + stride * i) % vocabularySize;
  const ids = Int32Array.from(starts.flatMap((s) => Array.from({ length }, (_, i) => at(s, i))));
  const targets = Int32Array.from(starts.flatMap((s) => Array.from({ length }, (_, i) => at(s, i + 1))));
  return { ids, targets, lengths: starts.map(() => length) };
}

function lossOf(model: BigModel, stride: number, step: number): Tensor {
  const { ids, targets, lengths } = batchOf(stride, step);
  const { backend } = model.embed_tokens.weight;
  return model.forward(ids, lengths).crossEntropy(tensor(targets, { backend, dtype: 'i32' }));
}

/** The training loop has no LoRA in it: it trains what requires a gradient. */
async function trainOn(model: BigModel, stride: number, steps: number): Promise<number> {
  using optimizer = new AdamW(trainableParameters(model), { lr: 0.02, weightDecay: 0 });
  let last = Number.NaN;
  for (let step = 0; step < steps; step++) {
    const { loss, gradients } = scope(() => {
      const value = lossOf(model, stride, step);
      return { gradients: value.backward(), loss: value.detach() };
    });
    optimizer.step(gradients);
    last = await loss.item();
    gradients.dispose();
    loss.dispose();
  }
  return last;
}

/** Part of the next tokens that the model gets right. */
async function accuracy(model: BigModel, stride: number): Promise<number> {
  const { ids, targets, lengths } = batchOf(stride, 1000);
  using best = noGrad(() => scope(() => model.forward(ids, lengths).argmax(-1)));
  const found = await best.data();
  return targets.filter((target, i) => target === found[i]).length / targets.length;
}

/** torch.save and torch.load of a state dict, as safetensors. */
async function save(files: FileSystem, path: string, state: ReadonlyMap<string, Tensor>): Promise<void> {
  const entries = [...state].map(([name, t]) => ({ name, dtype: t.dtype, shape: t.shape, bytes: () => t.bytes() }));
  await writeSafetensors(files, path, entries, { format: 'pt' });
}
async function load(files: FileSystem, path: string): Promise<Map<string, StateSource>> {
  const reader = await openSafetensors(files, path);
  const state = new Map<string, StateSource>();
  for (const [name, { dtype, shape }] of reader.entries)
    state.set(name, { dtype: dtype as DType, shape, bytes: await reader.read(name) });
  return state;
}

export async function main(
  files: FileSystem,
  backend: Backend,
  dir: string,
  print: (line: string) => void = console.log,
) {
  const [pretrainedPath, loraPath] = [joinPath(dir, 'pretrained.safetensors'), joinPath(dir, 'lora.safetensors')];
  // The base: an ordinary model, trained whole.
  using base = new BigModel(backend, { withLora: false });
  await trainOn(base, 1, 80);
  await save(files, pretrainedPath, base.stateDict());
  const baseAccuracy = [await accuracy(base, 1), await accuracy(base, 3)];
  print(`base: ${baseAccuracy[0]} on the old task, ${baseAccuracy[1]} on the new one`);

  // 3. Before training, mark only the LoRA parameters as trainable.
  using model = new BigModel(backend, { withLora: true });
  model.loadStateDict(await load(files, pretrainedPath), { strict: false });
  lora.markOnlyLoraAsTrainable(model);
  lora.printTrainableParameters(model, print);
  await trainOn(model, 3, 120);

  // 4. Save only the LoRA parameters.
  const adapter = lora.loraStateDict(model);
  await save(files, loraPath, adapter);
  print(`saved: ${[...adapter.keys()].join(', ')}`);

  // 5. Load the base first, then the adapter, both with strict: false. What was missing and what was not expected is returned, so that a
  // misspelled key does not go unseen as it does in Python.
  using fresh = new BigModel(backend, { withLora: true });
  const first = fresh.loadStateDict(await load(files, pretrainedPath), { strict: false });
  const second = fresh.loadStateDict(await load(files, loraPath), { strict: false });
  print(`base lacks ${first.missingKeys.join(', ')}; adapter has ${second.unexpectedKeys.length} unknown keys`);
  fresh.eval();
  const tunedAccuracy = await accuracy(fresh, 3);

  // Note 4. loralib merges in eval() and takes the update out again in train(); here both are calls of their own.
  await lora.mergeAdapter(fresh);
  const mergedAccuracy = await accuracy(fresh, 3);
  lora.unmergeAdapter(fresh);
  print(`tuned: ${tunedAccuracy} on the new task, ${mergedAccuracy} with the update merged into the weights`);

  // Note 3. Biases may be trained beside the adapter; give both calls the same mode.
  lora.markOnlyLoraAsTrainable(fresh, 'lora_only');
  const withBiases = [...lora.loraStateDict(fresh, 'lora_only').keys()];
  print(`with biases: ${withBiases.join(', ')}`);
  return { baseAccuracy, tunedAccuracy, mergedAccuracy, first, second, adapter: [...adapter.keys()], withBiases };
}

if (import.meta.main) {
  const backend = await cpu();
  const files = nodeFiles();
  await files.makeDirectory('runs/loralib');
  await main(files, backend, 'runs/loralib');
  await backend.close();
}
