/**
 * Tensors and gradients in one sitting: `node examples/autograd.ts`.
 *
 * Three things to know, if you come from PyTorch:
 *   1. `loss.backward()` returns the gradients; nothing accumulates on tensors, so there is no zeroGrad.
 *   2. Tensors are freed by `scope` (all that a function makes, but for what it returns), by `using`, or by `dispose()`.
 *   3. Ops are synchronous; only reading a value back is awaited.
 */
import { cpu } from '@lorikeet/cpu';
import { AdamW, Linear, Module, trainableParameters } from '@lorikeet/nn';
import { type Backend, memory, noGrad, randomKey, scope, type Tensor, tensor, uniform } from '@lorikeet/tensor';

/** The gradient of a small expression, and the same by moving one element a little. */
export async function gradientOfAnExpression(backend: Backend) {
  using w = tensor([[1, 2], [3, 4]], { backend, requiresGrad: true }); // biome-ignore format: a matrix
  using x = tensor([[0.5, -1]], { backend });

  const f = (weights: Tensor): Tensor => x.matmul(weights).silu().sum();
  using gradients = scope(() => f(w).backward()); // the steps in between are freed here
  const byBackward = (await gradients.of(w).toArray()) as number[][];

  // d f / d w[0][0], once more: (f(w + h) - f(w - h)) / 2h.
  const h = 1e-2;
  const moved = async (by: number): Promise<number> => {
    using value = noGrad(() => scope(() => f(w.add(tensor([[by, 0], [0, 0]], { backend }))))); // biome-ignore format: a matrix
    return value.item();
  };
  const byDifference = ((await moved(h)) - (await moved(-h))) / (2 * h);
  return { byBackward, byDifference };
}

/** Two layers that learn sin. A module's state is what stands in its properties; the property path is the checkpoint key. */
class Net extends Module {
  fc1: Linear;
  fc2: Linear;

  constructor(backend: Backend) {
    super();
    this.fc1 = Linear.init(1, 16, { backend, key: randomKey(0, 'fc1') });
    this.fc2 = Linear.init(16, 1, { backend, key: randomKey(0, 'fc2') });
    this.assignPaths();
  }

  /** x [t, 1] -> [t, 1] */
  forward(x: Tensor): Tensor {
    return this.fc2.forward(this.fc1.forward(x).tanh());
  }
}

/** Fits sin on [-3, 3]; returns the loss of each step. */
export async function fitSine(backend: Backend, steps: number, print: (line: string) => void): Promise<number[]> {
  using net = new Net(backend);
  const parameters = trainableParameters(net);
  print(`parameters: ${parameters.map(({ path, tensor: t }) => `${path} [${t.shape}]`).join(', ')}`);
  using optimizer = new AdamW(parameters, { lr: 0.02, weightDecay: 0 });
  using x = uniform([64, 1], { backend, key: randomKey(0, 'x') });
  using points = scope(() => x.mul(6).sub(3));
  using targets = points.sin();

  const losses: number[] = [];
  for (let step = 0; step < steps; step++) {
    const { loss, gradients } = scope(() => {
      const error = net.forward(points).sub(targets);
      const mean = error.mul(error).mean();
      return { gradients: mean.backward(), loss: mean.detach() };
    });
    optimizer.step(gradients);
    losses.push(await loss.item());
    gradients.dispose();
    loss.dispose();
    if (step % 50 === 0) print(`step ${step}  loss ${losses.at(-1)!.toFixed(5)}`);
  }
  return losses;
}

export async function main(backend: Backend, print: (line: string) => void = console.log) {
  const { byBackward, byDifference } = await gradientOfAnExpression(backend);
  print(`gradient: ${JSON.stringify(byBackward)}`);
  print(`by difference: ${byDifference.toFixed(4)} for the first element`);
  const losses = await fitSine(backend, 300, print);
  const { liveTensors, peakBytes } = memory(backend);
  print(`final loss ${losses.at(-1)!.toFixed(5)}; ${liveTensors} tensors alive, at most ${peakBytes} bytes at once`);
  return { byBackward, byDifference, losses, liveTensors };
}

if (import.meta.main) {
  const backend = await cpu();
  await main(backend);
  await backend.close();
}
