/** The suite every LinearLike passes: dense, quantized, adapted. A test file calls it with its framework and layer. */
import { type Backend, memory, noGrad, normal, randomKey, scope, type Tensor, tensor } from '@lorikeet/tensor';
import type { LinearLike } from './linear.ts';

/** What the suite needs of a test framework: vitest's, or look-alikes. */
export interface ContractFramework {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => void | Promise<void>): void;
}

/** What the suite tests, and how closely. */
export interface LinearContractOptions {
  readonly backend: () => Backend | Promise<Backend>;
  /** A fresh layer; inFeatures must be at least 2 and outFeatures at least 3. */
  readonly make: (backend: Backend) => LinearLike | Promise<LinearLike>;
  /** |got - want| <= tolerance * (1 + |want|). Default 1e-5. */
  readonly tolerance?: number;
}

function assert(condition: boolean, message: string): void {
  if (!condition) throw new Error(`linear contract: ${message}`);
}

async function close(got: Tensor, want: Tensor, tolerance: number, what: string): Promise<void> {
  assert(`${got.shape}` === `${want.shape}`, `${what}: shape [${got.shape}], expected [${want.shape}]`);
  const [g, w] = [await got.data(), await want.data()];
  for (let i = 0; i < w.length; i++)
    assert(
      Math.abs(g[i]! - w[i]!) <= tolerance * (1 + Math.abs(w[i]!)),
      `${what}: element ${i} is ${g[i]}, expected ${w[i]}`,
    );
}

/** The definition: x W^T (+ u b^T) (+ bias), in separate ops. */
function expected(layer: LinearLike, x: Tensor, add?: readonly [Tensor, Tensor]): Tensor {
  let y = x.matmul(layer.denseWeight(), { transposeB: true });
  if (add) y = y.add(add[0].matmul(add[1], { transposeB: true }));
  return layer.bias ? y.add(layer.bias) : y;
}

/** Declares the contract's tests. The layer is used in eval mode. */
export function linearContract(name: string, framework: ContractFramework, options: LinearContractOptions): void {
  const { tolerance = 1e-5 } = options;
  const { describe, it } = framework;
  const setUp = async () => {
    const backend = await options.backend();
    const layer = await options.make(backend);
    const random = (seed: number, shape: readonly number[], requiresGrad = false) =>
      normal(shape, { backend, key: randomKey(seed), requiresGrad });
    const x = random(1, [5, layer.inFeatures], true);
    const u = random(2, [5, 2], true);
    const b = random(3, [layer.outFeatures, 2], true);
    return { backend, layer, random, x, u, b };
  };

  describe(`linear contract: ${name}`, () => {
    it('forward is x W^T + bias, for any leading axes', async () => {
      const { layer, x, random } = await setUp();
      await close(layer.forward(x), expected(layer, x), tolerance, 'forward');
      const deep = random(4, [2, 3, layer.inFeatures]);
      const rows = expected(layer, deep.reshape([6, layer.inFeatures]));
      await close(layer.forward(deep), rows.reshape([2, 3, layer.outFeatures]), tolerance, 'forward of [2, 3, in]');
    });
    it('an empty batch gives an empty result', async () => {
      const { layer, backend } = await setUp();
      const y = layer.forward(tensor([], { backend, shape: [0, layer.inFeatures] }));
      assert(`${y.shape}` === `0,${layer.outFeatures}`, `empty batch: shape [${y.shape}]`);
    });
    it('add is a second product u b^T', async () => {
      const { layer, x, u, b } = await setUp();
      await close(layer.forward(x, [u, b]), expected(layer, x, [u, b]), tolerance, 'forward with add');
    });
    it('denseWeight(rows) is that part of the whole', async () => {
      const { layer } = await setUp();
      const part = layer.denseWeight([1, layer.outFeatures - 1]);
      await close(part, layer.denseWeight().slice(0, 1, layer.outFeatures - 1), 0, 'denseWeight rows');
    });
    it('gradients reach x, u and b', async () => {
      const { layer, x, u, b, random } = await setUp();
      const seed = random(5, [5, layer.outFeatures]);
      const got = layer.forward(x, [u, b]).backward(seed);
      const want = expected(layer, x, [u, b]).backward(seed);
      for (const [what, leaf] of Object.entries({ x, u, b }))
        await close(got.of(leaf), want.of(leaf), tolerance, `gradient of ${what}`);
    });
    it('state paths are its own, unique, and without separators at the ends', async () => {
      const { layer } = await setUp();
      const paths = [...layer.stateEntries()].map(([path]) => path);
      assert(paths.length > 0, 'stateEntries is empty');
      assert(new Set(paths).size === paths.length, `paths repeat: ${paths.join(', ')}`);
      assert(
        paths.every((p) => /^[^.](.*[^.])?$/.test(p)),
        `paths are malformed: ${paths.join(', ')}`,
      );
    });
    it('a wrong width is refused with the op and both sizes', async () => {
      const { layer, backend } = await setUp();
      const wrong = tensor(new Float32Array(layer.inFeatures + 1), { backend, shape: [1, layer.inFeatures + 1] });
      let message = '';
      try {
        layer.forward(wrong);
      } catch (error) {
        message = (error as Error).message;
      }
      assert(
        message.includes(String(layer.inFeatures)) && message.includes(String(layer.inFeatures + 1)),
        `wrong width gave: ${message || 'no error'}`,
      );
    });
    it('keeps nothing of a forward or of a dense weight', async () => {
      const { layer, backend, x } = await setUp();
      const run = () => noGrad(() => scope(() => void [layer.forward(x), layer.denseWeight([0, 2])]));
      run();
      const before = memory(backend).liveBytes;
      for (let i = 0; i < 3; i++) run();
      assert(memory(backend).liveBytes === before, `live bytes grew from ${before} to ${memory(backend).liveBytes}`);
    });
  });
}
