/** The compositions that tfjs and jax-js run, here over our own ops on the reference backend: right math is right anywhere. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeFiles } from '@lorikeet/files';
import { applyLora, markOnlyLoraAsTrainable, saveAdapter } from '@lorikeet/lora';
import { AdamW, clipGradNorm, trainableParameters } from '@lorikeet/nn';
import { initPhi3, parsePhi3Config, savePhi3 } from '@lorikeet/phi3';
import * as ops from '@lorikeet/tensor';
import { randomKey, referenceBackend, scope, type Tensor, tensor } from '@lorikeet/tensor';
import { expect, test } from 'vitest';
import { checkerOf } from '../check.ts';
import type { LoraStepSpec } from '../peer.ts';
import type { ArrayLibrary } from './array-library.ts';
import { composedWork } from './composed-work.ts';
import { mlpLosses } from './mlp-reference.ts';
import { smallWorks, titleOf } from './small-works.ts';
import { loraWork } from './steps.ts';

const backend = referenceBackend();
const labelsOf = new WeakMap<Tensor, Int32Array>();

const library: ArrayLibrary<Tensor> = {
  array(values, shape) {
    const isFloat = values instanceof Float32Array;
    const made = tensor(values, { backend, shape, dtype: isFloat ? 'f32' : 'i32' });
    if (!isFloat) labelsOf.set(made, values);
    return made;
  },
  read: async (x) => Float32Array.from((await x.data()) as Float32Array),
  free: (x) => x.dispose(),
  compile: (f) => (inputs) => scope(() => f(inputs).map((y) => y.detach())),
  differentiate(f, inputs, gradient) {
    const leaves = inputs.map((x) => {
      const leaf = x.detach();
      leaf.requiresGrad = true;
      return leaf;
    });
    const y = f(leaves);
    const gradients = y.backward(gradient);
    return { y: y.detach(), gradients: leaves.map((leaf) => gradients.of(leaf)) };
  },
  matmul: (a, b, transposeA, transposeB) => ops.matmul(a, b, { transposeA, transposeB }),
  linear: (x, weight) => ops.matmul(x, weight, { transposeB: true }),
  permute: (x, axes) => x.permute(axes),
  reshape: (x, shape) => x.reshape(shape),
  slice: (x, begin, size) => begin.reduce((y, from, axis) => y.slice(axis, from, from + size[axis]!), x),
  concat: (parts) => ops.concat(parts, -1),
  rows: (table, ids) => ops.indexSelect(table, ids),
  oneHot(labels, classes) {
    const ids = labelsOf.get(labels)!;
    const rows = new Float32Array(ids.length * classes);
    for (const [r, id] of ids.entries()) if (id >= 0) rows[r * classes + id] = 1;
    return tensor(rows, { backend, shape: [ids.length, classes] });
  },
  add: (a, b) => a.add(b),
  sub: (a, b) => a.sub(b),
  mul: (a, b) => a.mul(b),
  div: (a, b) => a.div(b),
  sqrt: (x) => x.sqrt(),
  rsqrt: (x) => x.rsqrt(),
  relu: (x) => x.relu(),
  atMost: (x, limit) => x.minimum(limit),
  map: (name, x) => (name === 'copy' || name === 'add' ? null : x[name]()),
  sum: (x, axis) => (axis === null ? x.sum() : x.sum(axis)),
  mean: (x) => x.mean(-1, { keepDims: true }),
  softmax: (x) => x.softmax(),
  logSoftmax: (x) => x.logSoftmax(),
  fence: (x) => x,
  dropout: () => null,
};

test.each(smallWorks.map((spec) => ({ title: titleOf(spec), spec })))('$title', async ({ title, spec }) => {
  const work = await composedWork(library, spec);
  if (spec.op === 'dropout' || title === 'copy') {
    expect(work).toBeNull();
    return;
  }
  const outputs = await work!.result();
  if (spec.op === 'mlpStep')
    for (const [i, loss] of mlpLosses(spec, 2).entries()) expect(outputs[0]![i]).toBeCloseTo(loss, 5);
  else checkerOf(spec)(title, outputs);
  work!.dispose();
});

const config = parsePhi3Config({
  ...{ architectures: ['Phi3ForCausalLM'], model_type: 'phi3', hidden_act: 'silu', attention_bias: false },
  ...{ vocab_size: 61, hidden_size: 24, intermediate_size: 40, num_hidden_layers: 2, num_attention_heads: 3 },
  ...{ num_key_value_heads: 3, max_position_embeddings: 64, original_max_position_embeddings: 64, rms_norm_eps: 1e-5 },
  ...{ rope_theta: 10000, rope_scaling: null, sliding_window: null, tie_word_embeddings: false },
  ...{ bos_token_id: 1, eos_token_id: 2, pad_token_id: 2, initializer_range: 0.1 },
  ...{ resid_pdrop: 0, embd_pdrop: 0, attention_dropout: 0 },
});

/** Rows of 7 and 4 tokens of which the first two do not count. */
const rows = [7, 4].map((length) => {
  const ids = Int32Array.from({ length }, (_, i) => (i * 17 + length) % 61);
  return { ids, labels: ids.map((id, i) => (i < 2 ? -100 : id)) };
});

test('the LoRA step gives the losses of our own model', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-lora-'));
  try {
    const spec: LoraStepSpec = { op: 'loraStep', model: join(folder, 'm'), adapter: join(folder, 'a'), lr: 0.01, rows };
    const model = await initPhi3(config, { backend, key: randomKey(1), trainable: false });
    await savePhi3(nodeFiles(), spec.model, model);
    applyLora(
      model,
      { r: 4, loraAlpha: 8, targetModules: 'all-linear', initLoraWeights: false },
      { key: randomKey(2) },
    );
    markOnlyLoraAsTrainable(model);
    await saveAdapter(nodeFiles(), spec.adapter, model, { baseModelNameOrPath: 'm' });
    const work = await composedWork(library, spec);
    const [losses] = await work!.result();
    const inParts = await loraWork(library, spec, 1);
    for (const [i, loss] of (await inParts.result())[0]!.entries()) expect(loss).toBeCloseTo(losses![i]!, 5);

    const parameters = trainableParameters(model);
    const optimizer = new AdamW(parameters, { lr: spec.lr, weightDecay: 0 });
    const batch = {
      ids: Int32Array.from(rows.flatMap((row) => [...row.ids])),
      labels: Int32Array.from(rows.flatMap((row) => [...row.labels])),
      lengths: rows.map((row) => row.ids.length),
    };
    for (const loss of losses!) {
      const ours = model.loss(batch);
      expect(loss).toBeCloseTo(await ours.item(), 4);
      const gradients = ours.backward();
      const { scale } = await clipGradNorm(gradients, parameters, 1);
      optimizer.step(gradients, { gradScale: scale });
    }
    expect(losses![1]).not.toBeCloseTo(losses![0]!, 3);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
