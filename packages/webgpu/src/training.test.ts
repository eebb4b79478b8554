import {
  adamwUpdate,
  type Backend,
  type DType,
  memory,
  normal,
  randomKey,
  referenceBackend,
  scope,
  sgdUpdate,
  type Tensor,
  tensor,
  zeros,
} from '@lorikeet/tensor';
import { expectClose } from '@lorikeet/tensor/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { describeOnAdapter, openBackend, sharedBackend } from './testing/adapter.ts';
import { againstReference } from './testing/against-reference.ts';

const vitest = { describe, it, afterAll };

const adamw = (step: number) => ({
  gradScale: 1,
  lr: 0.01,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.01,
  weightDecayAfter: 0,
  correction1: 1 - 0.9 ** step,
  correction2: Math.sqrt(1 - 0.999 ** step),
});

/** Trains a two-layer net with dropout on fixed data; yields the loss of each step. */
async function trainMlp(backend: Backend, steps: number): Promise<number[]> {
  const key = randomKey(5);
  const make = (shape: number[], name: string): Tensor => normal(shape, { backend, key: key.fold(name), std: 0.3 });
  const weights = [make([16, 8], 'w1'), zeros([16], { backend }), make([4, 16], 'w2')];
  for (const w of weights) w.requiresGrad = true;
  const moments = weights.map((w) => [zeros(w.shape, { backend }), zeros(w.shape, { backend })] as const);
  const [x, y] = [make([32, 8], 'x'), make([32, 4], 'y')];
  const losses: Promise<number>[] = [];
  for (let step = 1; step <= steps; step++) {
    const loss = scope(() => {
      const hidden = x.matmul(weights[0]!, { transposeB: true, bias: weights[1]! }).gelu().dropout(0.1, key.fold(step));
      const error = hidden.matmul(weights[2]!, { transposeB: true }).sub(y);
      const made = error.mul(error).mean();
      const gradients = made.backward();
      weights.forEach((param, i) => {
        const [m, v] = moments[i]!;
        adamwUpdate.apply({ param, grad: gradients.of(param), m, v }, adamw(step));
      });
      return made.detach();
    });
    losses.push(loss.item());
    loss.dispose();
  }
  const values = await Promise.all(losses);
  for (const t of [...weights, ...moments.flat(), x, y]) t.dispose();
  return values;
}

describeOnAdapter(vitest, 'training', () => {
  const open = sharedBackend(vitest);

  it('a small net for 100 steps: the losses of the reference, and no buffer left', async () => {
    const backend = await openBackend();
    const losses = await trainMlp(backend, 100);
    expect(losses[99]!).toBeLessThan(losses[0]! * 0.7);
    expectClose(losses, await trainMlp(referenceBackend(), 100), { relative: 2e-4, absolute: 1e-5 }, 'losses');
    expect(memory(backend).liveTensors).toBe(0);
    expect(backend.describe().liveBuffers).toBe(0);
    const compiled = backend.describe().pipelines;
    await trainMlp(backend, 3);
    expect(backend.describe().pipelines).toBe(compiled);
    await backend.close();
  });

  for (const dtype of ['f32', 'bf16', 'f16'] as const)
    it(`AdamW and SGD update ${dtype} parameters in place`, async () => {
      const tolerance = { f32: 3e-6, bf16: 1e-2, f16: 2e-3 }[dtype];
      for (const update of [withAdamW, withSgd])
        for (const output of [0, 1])
          await againstReference(await open(), (backend) => update(backend, dtype)[output]!, {
            relative: tolerance,
            absolute: tolerance / 10,
          });
    });

  it('updates views of one buffer, whose bindings must be one', async () => {
    await againstReference(
      await open(),
      (backend) => {
        const state = tensor(
          Float32Array.from({ length: 21 }, (_, i) => Math.abs(Math.sin(i + 1))),
          { backend },
        );
        const [param, m, v] = [state.slice(0, 0, 7), state.slice(0, 7, 14), state.slice(0, 14, 21)];
        adamwUpdate.apply({ param, grad: numbers(backend, 'f32', 7, 3), m, v }, adamw(2));
        return state;
      },
      { relative: 1e-6, absolute: 1e-7 },
    );
  });
});

const numbers = (backend: Backend, dtype: DType, count: number, seed: number): Tensor =>
  tensor(
    Float32Array.from({ length: count }, (_, i) => Math.sin(seed + i)),
    { backend, dtype },
  );

function withAdamW(backend: Backend, dtype: DType): Tensor[] {
  const [param, grad] = [numbers(backend, dtype, 37, 1), numbers(backend, 'f32', 37, 2)];
  const [m, v] = [zeros([37], { backend }), zeros([37], { backend })];
  for (let step = 1; step <= 3; step++) adamwUpdate.apply({ param, grad, m, v }, adamw(step));
  return [param, v];
}

function withSgd(backend: Backend, dtype: DType): Tensor[] {
  const [param, momentum] = [numbers(backend, dtype, 37, 1), zeros([37], { backend, dtype })];
  const grad = numbers(backend, 'bf16', 37, 2);
  for (let step = 0; step < 3; step++)
    sgdUpdate.apply(
      { param, grad, momentum },
      { gradScale: 0.5, lr: 0.1, decay: 0.9, dampening: 0, nesterov: 0, weightDecay: 0.01 },
    );
  return [param, momentum];
}
