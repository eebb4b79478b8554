/** Whole steps of ours as works of the bench: an MLP, LoRA on a model folder, greedy generation. */
import type { CpuBackend } from '@lorikeet/cpu';
import { nodeFiles } from '@lorikeet/files';
import { loadAdapter } from '@lorikeet/lora';
import { AdamW, clipGradNorm, Linear, SGD, trainableParameters } from '@lorikeet/nn';
import { generate, loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import { crossEntropy, type Gradients, scope, type Tensor, tensor } from '@lorikeet/tensor';
import type { GenerationSpec, LoraStepSpec, MlpStepSpec, PeerWork } from '../peer.ts';

const losses = async (step: () => Promise<number>): Promise<Float32Array[]> => [
  Float32Array.of(await step(), await step()),
];

/** Forward and backward, then what `update` does with the gradients; the loss. */
async function stepOf(loss: () => Tensor, update: (gradients: Gradients) => Promise<void> | void): Promise<number> {
  const made = scope(() => {
    const value = loss();
    return { value: value.detach(), gradients: value.backward() };
  });
  await update(made.gradients);
  const value = await made.value.item();
  made.gradients.dispose();
  made.value.dispose();
  return value;
}

function mlpStep(spec: MlpStepSpec, backend: CpuBackend): { step: () => Promise<number>; dispose: () => void } {
  const { sizes, batch, lr } = spec;
  const trained = (values: Float32Array, shape: number[]): Tensor =>
    tensor(values, { backend, shape, requiresGrad: true });
  const layers = spec.weights.map(
    (w, i) => new Linear(trained(w, [sizes[i + 1]!, sizes[i]!]), trained(spec.biases[i]!, [sizes[i + 1]!])),
  );
  const x = tensor(spec.x, { backend, shape: [batch, sizes[0]!] });
  const labels = tensor(spec.labels, { backend, dtype: 'i32' });
  const parameters = layers.flatMap((layer, i) => [
    { path: `${i}.weight`, tensor: layer.weight },
    { path: `${i}.bias`, tensor: layer.bias! },
  ]);
  const optimizer = new SGD(parameters, { lr });
  const loss = (): Tensor => {
    let h = x;
    for (const [i, layer] of layers.entries()) h = i < layers.length - 1 ? layer.forward(h).relu() : layer.forward(h);
    return crossEntropy(h, labels);
  };
  return {
    step: () => stepOf(loss, (gradients) => optimizer.step(gradients)),
    dispose: () => {
      for (const t of [x, labels, ...parameters.map((p) => p.tensor)]) t.dispose();
      optimizer.dispose();
    },
  };
}

/** The step ends when its loss is read: everything has run. */
export function mlpWork(spec: MlpStepSpec, backend: CpuBackend): PeerWork {
  const { step, dispose } = mlpStep(spec, backend);
  return {
    run: step,
    result: async () => {
      const fresh = mlpStep(spec, backend);
      const found = await losses(fresh.step);
      fresh.dispose();
      return found;
    },
    dispose,
  };
}

/** A padding-free batch: rows one after another. */
export function batchOf(rows: LoraStepSpec['rows']) {
  return {
    ids: Int32Array.from(rows.flatMap(({ ids }) => [...ids])),
    labels: Int32Array.from(rows.flatMap(({ labels }) => [...labels])),
    lengths: rows.map(({ ids }) => ids.length),
  };
}

export const batchesOf = ({ rows, rowsPerStep = rows.length }: LoraStepSpec) =>
  Array.from({ length: rows.length / rowsPerStep }, (_, i) =>
    batchOf(rows.slice(i * rowsPerStep, (i + 1) * rowsPerStep)),
  );

/** The base in its stored dtype, the adapter trainable. */
export async function openTrained(spec: LoraStepSpec, backend: CpuBackend): Promise<Phi3ForCausalLM> {
  const model = await loadPhi3(nodeFiles(), spec.model, { backend });
  await loadAdapter(nodeFiles(), spec.adapter, model, { trainable: true });
  return model;
}

/** Steps on the spec's batches in turn. */
export async function loraSteps(
  spec: LoraStepSpec,
  backend: CpuBackend,
): Promise<{ step: () => Promise<number>; model: Phi3ForCausalLM; dispose: () => void }> {
  const model = await openTrained(spec, backend);
  const parameters = trainableParameters(model);
  const optimizer = new AdamW(parameters, { lr: spec.lr, weightDecay: 0 });
  const batches = batchesOf(spec);
  let steps = 0;
  const step = (): Promise<number> => {
    const batch = batches[steps++ % batches.length]!;
    return stepOf(
      () => model.loss(batch),
      async (gradients) => {
        const { scale } = await clipGradNorm(gradients, parameters, 1);
        optimizer.step(gradients, { gradScale: scale });
      },
    );
  };
  const dispose = (): void => {
    optimizer.dispose();
    model.dispose();
  };
  return { step, model, dispose };
}

/** A call is one step; `result` is that of a fresh model on the first batch. */
export async function loraWork(spec: LoraStepSpec, backend: CpuBackend): Promise<PeerWork> {
  const { step, dispose } = await loraSteps(spec, backend);
  const { rows, rowsPerStep = rows.length } = spec;
  return {
    run: step,
    result: async () => {
      const fresh = await loraSteps({ ...spec, rows: rows.slice(0, rowsPerStep) }, backend);
      const found = await losses(fresh.step);
      fresh.dispose();
      return found;
    },
    dispose,
  };
}

export async function generationWork(spec: GenerationSpec, backend: CpuBackend): Promise<PeerWork> {
  const model = await loadPhi3(nodeFiles(), spec.model, { backend });
  const run = async (): Promise<number[]> => {
    const ids: number[] = [];
    const options = { maxNewTokens: spec.newTokens, stopTokenIds: [] };
    for await (const { id } of generate(model, spec.prompt, options)) ids.push(id);
    return ids;
  };
  return { run, result: async () => [Float32Array.from(await run())], dispose: () => model.dispose() };
}
