import { memory, randomKey, referenceBackend, tensor, withRandom } from '@lorikeet/tensor';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Dropout } from './dropout.ts';
import { Embedding } from './embedding.ts';
import { Linear, type LinearLike } from './linear.ts';
import type { StateSource } from './load-state-dict.ts';
import { Module } from './module.ts';
import { type ModuleLike, type StateEntry, trainableParameters } from './module-tree.ts';

const backend = referenceBackend();
const key = randomKey(1);

class Block extends Module {
  qkv_proj: LinearLike = Linear.init(4, 6, { backend, key, bias: false });
  dropout = new Dropout(0.5);
}
class Toy extends Module {
  embed_tokens = Embedding.init(5, 4, { backend, key });
  layers = [new Block(), new Block()];
  heads = { main: Linear.init(4, 5, { backend, key }) };
  readonly config = { width: 4 };
  #cache = tensor([1], { backend });
  get cache() {
    return this.#cache;
  }
}
const make = (): Toy => new Toy().assignPaths();
const paths = [
  'embed_tokens.weight',
  'layers.0.qkv_proj.weight',
  'layers.1.qkv_proj.weight',
  'heads.main.weight',
  'heads.main.bias',
];

/** An adapter in miniature: hides its base, passes its state on, adds its own. */
class Wrapped extends Module {
  readonly base: LinearLike;
  lora_A = tensor([[1, 2, 3, 4]], { backend, requiresGrad: true });
  constructor(base: LinearLike) {
    super();
    this.base = base;
  }
  override *stateEntries(): Iterable<StateEntry> {
    yield* this.base.stateEntries();
    yield ['lora_A', this.lora_A];
  }
  override childModules(): Iterable<readonly [string, ModuleLike]> {
    return [];
  }
}

describe('Module', () => {
  it('finds state in plain properties, arrays and records; private fields are not state', () => {
    expect([...make().stateDict().keys()]).toEqual(paths);
    expect(make().cache.size).toBe(1);
  });
  it('knows its paths', () => {
    const model = make();
    expect([...model.namedModules()].map(([path]) => path)).toEqual([
      '',
      'embed_tokens',
      'layers.0',
      'layers.0.qkv_proj',
      'layers.0.dropout',
      'layers.1',
      'layers.1.qkv_proj',
      'layers.1.dropout',
      'heads.main',
    ]);
    expect(model.layers[1]!.dropout.path).toBe('layers.1.dropout');
  });
  it('switches training for the whole tree', () => {
    const model = make().eval();
    expect(model.layers[1]!.dropout.training).toBe(false);
    expect(model.train().layers[1]!.dropout.training).toBe(true);
  });
  it('replaces a module and does not move the base path', () => {
    const model = make().eval();
    const wrapped = model.replaceModule('layers.1.qkv_proj', (old) => new Wrapped(old as LinearLike));
    expect(wrapped.path).toBe('layers.1.qkv_proj');
    expect(wrapped.training).toBe(false);
    expect(model.findModule('layers.1.qkv_proj')).toBe(wrapped);
    expect([...model.stateDict().keys()]).toEqual(paths.toSpliced(3, 0, 'layers.1.qkv_proj.lora_A'));
  });
  it('an unknown path is an error that says what stands beside it', () => {
    expect(() => make().findModule('layers.0.q_proj')).toThrow(
      'findModule: path must name a module: layers.0.q_proj does not. Beside it: layers.0.qkv_proj, layers.0.dropout.',
    );
    expect(() => make().replaceModule('', (old) => old)).toThrow(
      'replaceModule: path must lead through plain properties',
    );
  });
  it('reports tied tensors once, with their aliases', () => {
    const model = make();
    model.heads.main.weight = model.embed_tokens.weight;
    expect(model.namedParameters()[0]).toMatchObject({ path: 'embed_tokens.weight', aliases: ['heads.main.weight'] });
    expect([...model.stateDict().keys()]).not.toContain('heads.main.weight');
    model.embed_tokens.weight.requiresGrad = false;
    expect(trainableParameters(model).map(({ path }) => path)).not.toContain('embed_tokens.weight');
  });
  it('dispose frees all of it', () => {
    const before = memory(backend).liveTensors;
    const model = make();
    model.cache.dispose();
    model.dispose();
    expect(memory(backend).liveTensors).toBe(before);
  });
});

describe('loadStateDict', () => {
  const bytesOf = async (model: Module) =>
    new Map(
      await Promise.all(
        [...model.stateDict()].map(
          async ([path, t]) => [path, { dtype: t.dtype, shape: t.shape, bytes: await t.bytes() }] as const,
        ),
      ),
    );

  it('gives back what stateDict gave, as tensors or bytes, without new tensors', async () => {
    const target = make();
    target.layers[0]!.qkv_proj = new Linear(
      tensor(new Float32Array(24), { backend, shape: [6, 4], requiresGrad: true }),
    );
    const { weight } = target.layers[0]!.qkv_proj as Linear;
    const state = await bytesOf(make());
    const before = memory(backend).liveTensors;
    expect(target.loadStateDict(state)).toEqual({ missingKeys: [], unexpectedKeys: [] });
    expect(await bytesOf(target)).toEqual(state);
    expect((target.layers[0]!.qkv_proj as Linear).weight).toBe(weight);
    target.loadStateDict(target.stateDict());
    expect(memory(backend).liveTensors).toBe(before);
  });
  it('strict false reports missing and unexpected keys and loads the rest', async () => {
    const model = make();
    const bias = tensor([1, 2, 3, 4, 5], { backend });
    const result = model.loadStateDict(
      new Map([
        ['heads.main.bias', bias],
        ['extra', bias],
      ]),
      { strict: false },
    );
    expect(result.unexpectedKeys).toEqual(['extra']);
    expect(result.missingKeys).toEqual(paths.slice(0, 4));
    expect(await model.heads.main.bias!.toArray()).toEqual([1, 2, 3, 4, 5]);
  });
  it('all problems stand in one error, and nothing is written', async () => {
    const model = make();
    const before = await bytesOf(model);
    const state = new Map([
      ['heads.main.bias', tensor([1, 2, 3, 4, 5], { backend })],
      ['heads.main.weight', tensor([[1]], { backend })],
      ['embed_tokens.weight', tensor(new Int32Array(20), { backend, dtype: 'i32', shape: [5, 4] })],
      ['other', tensor([1], { backend })],
    ]);
    expect(() => model.loadStateDict(state)).toThrow(
      /5 keys do not:\n {2}embed_tokens.weight: expected f32, got i32\n {2}heads.main.weight: expected \[5, 4\], got \[1, 1\]\n {2}layers.0.qkv_proj.weight: missing\n.*missing\n {2}other: unexpected/,
    );
    expect(await bytesOf(model)).toEqual(before);
  });
  it('a tied tensor may come under any of its paths', async () => {
    const model = make();
    model.heads.main.weight = model.embed_tokens.weight;
    const state = new Map<string, StateSource>(await bytesOf(model));
    state.set('heads.main.weight', state.get('embed_tokens.weight')!);
    state.delete('embed_tokens.weight');
    expect(model.loadStateDict(state)).toEqual({ missingKeys: [], unexpectedKeys: [] });
  });
  it('converts between float dtypes; scalars and empty tensors too', async () => {
    class Mixed extends Module {
      a = tensor([0, 0], { backend, dtype: 'bf16' });
      scalar = tensor(0, { backend });
      empty = tensor([], { backend, shape: [0, 3] });
    }
    const model = new Mixed();
    model.loadStateDict(
      new Map([
        ['a', tensor([1.5, -2], { backend })],
        ['scalar', tensor(4, { backend })],
        ['empty', tensor([], { backend, shape: [0, 3] })],
      ]),
    );
    expect([await model.a.toArray(), await model.scalar.item()]).toEqual([[1.5, -2], 4]);
  });
});

describe('Dropout', () => {
  it('has the same mask for the same key and path, another for another path, none in eval', async () => {
    const x = tensor(new Float32Array(64).fill(1), { backend });
    await fc.assert(
      fc.asyncProperty(fc.nat(), async (seed) => {
        const [a, b] = make().layers.map((layer) => layer.dropout) as [Dropout, Dropout];
        const run = (layer: Dropout) => withRandom(randomKey(seed), () => layer.forward(x)).data();
        expect(await run(a)).toEqual(await run(a));
        expect(await run(a)).not.toEqual(await run(b));
        expect(new Set(await run(a))).toEqual(new Set([0, 2]));
        a.training = false;
        expect(await a.forward(x).data()).toEqual(await x.data());
      }),
      { numRuns: 10 },
    );
  });
  it('says what is needed outside withRandom, and refuses p = 1', () => {
    expect(() => make().layers[0]!.dropout.forward(tensor([1], { backend }))).toThrow('layers.0.dropout');
    expect(() => new Dropout(1)).toThrow('Dropout: p must be in [0, 1): got 1');
  });
});
