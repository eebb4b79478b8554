import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  collate,
  createBatches,
  type Example,
  evaluationBatches,
  findOverlap,
  packExamples,
  packRows,
  type Row,
  Sampler,
  splitDataset,
} from './index.ts';

const example = (line: number, length: number): Example => {
  const ids = Int32Array.from({ length }, (_, i) => line * 100 + i);
  return { ids, labels: ids.map((id, i) => (i < 2 ? -100 : id)), line };
};
const lengths = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 80 });

describe('collate', () => {
  it('puts sequences one after another, each from position 0, each token predicting the next of its own', () => {
    const whole = { ...example(2, 3), labels: Int32Array.of(200, 201, 202) };
    expect(collate([example(1, 4), whole])).toEqual({
      ids: Int32Array.of(100, 101, 102, 103, 200, 201, 202),
      labels: Int32Array.of(-100, -100, 102, 103, -100, 201, 202),
      targets: Int32Array.of(-100, 102, 103, -100, 201, 202, -100),
      positions: Int32Array.of(0, 1, 2, 3, 0, 1, 2),
      lengths: [4, 3],
      rowTokens: 4,
      trainedTokens: 4,
      lines: [1, 2],
    });
    expect(() => collate([])).toThrow('at least one example');
  });
  it('has as many targets as trainedTokens, and labels shifted by one', () => {
    fc.assert(
      fc.property(lengths, (sizes) => {
        const batch = collate(sizes.map((size, i) => example(i, size)));
        expect(batch.targets.filter((target) => target !== -100)).toHaveLength(batch.trainedTokens);
        expect([...batch.targets.subarray(0, -1)]).toEqual([...batch.labels.subarray(1)]);
      }),
    );
  });
});

describe('packExamples', () => {
  it('is best fit decreasing', () => {
    expect(packExamples([6, 5, 4, 3, 2], 10)).toEqual([
      [0, 2],
      [1, 3, 4],
    ]);
    expect(packExamples([7, 8, 3, 2], 10)).toEqual([
      [1, 3],
      [0, 2],
    ]);
  });
  it('gives each example once, in no bin more than fits, and wastes less than half', () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 64, max: 128 }), (sizes, maxLength) => {
        const bins = packExamples(sizes, maxLength);
        expect(bins.flat().sort((a, b) => a - b)).toEqual(sizes.map((_, i) => i));
        const loads = bins.map((bin) => bin.reduce((sum, i) => sum + sizes[i]!, 0));
        expect(Math.max(...loads)).toBeLessThanOrEqual(maxLength);
        expect(loads.filter((load) => load * 2 <= maxLength).length).toBeLessThanOrEqual(1);
      }),
    );
  });
  it('refuses what does not fit', () => {
    expect(() => packExamples([11], 10)).toThrow('Truncate rows first');
    expect(() => packExamples([0], 10)).toThrow('from 1 to 10');
  });
});

describe('packRows', () => {
  const strategies = fc.constantFrom('bfd_split' as const, 'wrapped' as const);
  it('loses no token and fills no pack beyond maxLength', () => {
    fc.assert(
      fc.property(
        lengths,
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 30 }),
        strategies,
        (sizes, maxLength, packingRows, packingStrategy) => {
          const rows = sizes.map((size, i) => example(i, size));
          const packs = packRows(rows, { maxLength, packingStrategy, packingRows });
          const ids = (list: readonly Example[]) => list.flatMap((row) => [...row.ids]).sort((a, b) => a - b);
          expect(ids(packs.flat())).toEqual(ids(rows));
          for (const pack of packs)
            expect(pack.reduce((sum, row) => sum + row.ids.length, 0)).toBeLessThanOrEqual(maxLength);
        },
      ),
    );
  });
  it('keeps labels and lines beside their tokens', () => {
    const rows = [example(1, 5), example(2, 3), example(3, 4)];
    const wrapped = packRows(rows, { maxLength: 4, packingStrategy: 'wrapped' });
    expect(wrapped.map(([piece]) => [piece!.line, [...piece!.ids], [...piece!.labels]])).toEqual([
      [1, [100, 101, 102, 103], [-100, -100, 102, 103]],
      [1, [104, 200, 201, 202], [104, -100, -100, 202]],
      [3, [300, 301, 302, 303], [-100, -100, 302, 303]],
    ]);
    const split = packRows(rows, { maxLength: 4, packingStrategy: 'bfd_split' });
    expect(split.map((pack) => pack.map(({ line, ids }) => [line, ...ids]))).toEqual([
      [[1, 100, 101, 102, 103]],
      [[3, 300, 301, 302, 303]],
      [
        [2, 200, 201, 202],
        [1, 104],
      ],
    ]);
  });
  it('packs groups of rows apart, and refuses sizes that are none', () => {
    const rows = [2, 8, 2, 8].map((size, i) => example(i, size));
    expect(packRows(rows, { maxLength: 11 }).map((pack) => pack.length)).toEqual([2, 2]);
    expect(packRows(rows, { maxLength: 11, packingRows: 1 })).toHaveLength(4);
    expect(() => packRows(rows, { maxLength: 12, packingRows: 0 })).toThrow('packingRows must be an integer');
    expect(() => packRows(rows, { maxLength: 7 })).toThrow('Truncate rows first');
    expect(packRows([], { maxLength: 7 })).toEqual([]);
  });
});

describe('Sampler', () => {
  const options = fc.record({
    itemCount: fc.integer({ min: 1, max: 30 }),
    batchSize: fc.integer({ min: 1, max: 40 }),
    order: fc.constantFrom('random' as const, 'sequential' as const),
    seed: fc.nat(),
  });
  const draws = (sampler: Sampler, count: number) => Array.from({ length: count }, () => sampler.next());

  it('gives each item once an epoch, in another order each epoch', () => {
    fc.assert(
      fc.property(options, (given) => {
        const sampler = new Sampler(given);
        for (const epoch of [0, 1, 2]) {
          const epochDraws = draws(sampler, sampler.batchesPerEpoch);
          expect(epochDraws.every((draw) => draw.epoch === epoch)).toBe(true);
          const items = epochDraws.flatMap(({ indices }) => indices);
          expect(items.toSorted((a, b) => a - b)).toEqual(Array.from({ length: given.itemCount }, (_, i) => i));
          if (given.order === 'sequential') expect(items).toEqual(items.toSorted((a, b) => a - b));
        }
        expect(sampler.epochs).toBe(3);
      }),
    );
    const sampler = new Sampler({ itemCount: 50, batchSize: 50, seed: 1 });
    expect(sampler.next().indices).not.toEqual(sampler.next().indices);
  });
  it('goes on from its state, through JSON, as if never interrupted', () => {
    fc.assert(
      fc.property(options, fc.nat({ max: 20 }), (given, before) => {
        const sampler = new Sampler(given);
        draws(sampler, before);
        const resumed = new Sampler(given);
        resumed.restore(JSON.parse(JSON.stringify(sampler.state())));
        expect(draws(resumed, 12)).toEqual(draws(sampler, 12));
        expect(resumed.state()).toEqual(sampler.state());
      }),
    );
  });
  it('refuses the state of another run, and sizes that are none', () => {
    const state = new Sampler({ itemCount: 5, batchSize: 2, seed: 1 }).state();
    expect(() => new Sampler({ itemCount: 6, batchSize: 2, seed: 2 }).restore(state)).toThrow(
      /itemCount was 5 and is 6, seed was 1 and is 2/,
    );
    expect(() => new Sampler({ itemCount: 5, batchSize: 2, seed: 1 }).restore({ ...state, position: 5 })).toThrow(
      /within the data/,
    );
    expect(() => new Sampler({ itemCount: 0, batchSize: 2 })).toThrow('itemCount must be an integer of at least 1');
  });
});

describe('createBatches', () => {
  it('packs short rows, keeps their borders, and resumes', () => {
    const examples = [5, 9, 3, 4, 7, 1].map((size, i) => example(i + 1, size));
    const source = createBatches(examples, { batchSize: 1, packing: true, maxLength: 10, seed: 3 });
    expect([source.itemCount, source.batchesPerEpoch, source.tokensPerEpoch]).toEqual([3, 3, 29]);
    const epoch = Array.from({ length: 3 }, () => source.next());
    expect(epoch.flatMap(({ lines }) => lines).toSorted()).toEqual([1, 2, 3, 4, 5, 6]);
    const resumed = createBatches(examples, { batchSize: 1, packing: true, maxLength: 10, seed: 3 });
    resumed.restore(source.state());
    expect(resumed.next()).toEqual(source.next());
    expect(resumed.epochs).toBeCloseTo(4 / 3);
    expect(() => createBatches(examples, { batchSize: 1, packing: true })).toThrow('packing needs maxLength');
  });
  it('tells the row that TRL would lay out: padded rows the longest, packs end to end all', () => {
    const examples = [5, 9, 3].map((size, i) => example(i + 1, size));
    const of = (options: object) => createBatches(examples, { batchSize: 8, order: 'sequential', ...options }).next();
    const packed = { packing: true, maxLength: 9 };
    expect(of({}).rowTokens).toBe(9);
    expect(of(packed).rowTokens).toBe(17);
    expect(of({ ...packed, packingStrategy: 'wrapped' }).rowTokens).toBe(9);
  });
  it('works with one row and a larger batch', () => {
    const source = createBatches([example(1, 4)], { batchSize: 8 });
    expect([source.next().lengths, source.next().lengths, source.epochs]).toEqual([[4], [4], 2]);
  });
  it('evaluates each example once, in order', () => {
    const batches = [
      ...evaluationBatches(
        [1, 2, 3].map((line) => example(line, 3)),
        2,
      ),
    ];
    expect(batches.map(({ lines }) => lines)).toEqual([[1, 2], [3]]);
    expect(() => evaluationBatches([], 0).next()).toThrow('batchSize');
  });
});

describe('splitDataset', () => {
  it('holds out a share rounded up or a number, without loss, the same for the same seed', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 60 }),
        fc.nat(),
        fc.double({ min: 0.01, max: 0.5, noNaN: true }),
        (count, seed, share) => {
          const rows = Array.from({ length: count }, (_, i) => i);
          const { train, test } = splitDataset(rows, { testSize: share, seed });
          expect(test).toHaveLength(Math.ceil(share * count));
          expect([...train, ...test].sort((a, b) => a - b)).toEqual(rows);
          expect(splitDataset(rows, { testSize: share, seed })).toEqual({ train, test });
        },
      ),
    );
    expect(splitDataset([1, 2, 3], { testSize: 2, seed: 0 }).test).toHaveLength(2);
  });
  it.each([0, -1, 3, 0.99, 1.5, Number.NaN])('refuses testSize %d of three rows', (testSize) => {
    expect(() => splitDataset([1, 2, 3], { testSize, seed: 0 })).toThrow('at least one row on each side');
  });
});

describe('findOverlap', () => {
  const chat = (line: number, question: string, answer: string): Row => ({
    kind: 'chat',
    line,
    messages: [
      { role: 'user', content: question },
      { role: 'assistant', content: answer },
    ],
  });
  it('finds rows that were trained on, and questions with another answer', () => {
    const train = [
      chat(1, '각각?', '네'),
      chat(2, 'مرحبا', 'أهلا'),
      { kind: 'text', line: 3, text: '앵무새 🦜' } as const,
    ];
    const evaluation = [
      chat(1, '각각?'.normalize('NFD'), ' 네\n'),
      chat(2, 'مرحبا', '?'),
      chat(3, '새', '로'),
      { kind: 'text', line: 4, text: '앵무새  🦜' } as const,
    ];
    expect(findOverlap(train, evaluation)).toEqual({
      equalRows: [
        [1, 1],
        [3, 4],
      ],
      equalPrompts: [[2, 2]],
    });
  });
});
