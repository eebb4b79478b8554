import { expect, test } from 'vitest';
import { type BenchCase, type BenchContender, boundBy, roofline } from './case.ts';
import { rateOf } from './measure.ts';
import { markdownOf } from './report.ts';
import { type Measured, neededProbes, resultsOf } from './rows.ts';

const of = { name: 'product', shape: '2 x 3', unit: 'GFLOP/s', perUnit: 1e9 } as BenchCase;
const limit = boundBy('multiply-add');
const limitsOf = (rate: number) => ({ 'multiply-add': rate, copy: 1e9, read: 2e9, stream: 3e9 });

/** A case with our rates by row name and thread count, and peers. */
function measured(
  contenders: readonly (Omit<BenchContender, 'name' | 'work'> & { readonly rates: readonly number[] })[],
  more: Partial<Measured> = {},
): Measured {
  return {
    of,
    contenders: contenders.map(({ rates: _, ...c }, i) => ({ name: `${i}`, work: 1, ...c })),
    rates: contenders.map(({ rates }, i) => rateOf(`${i}`, rates)),
    limits: new Map([1, 2].map((threads) => [threads, limitsOf(threads * 100e9)])),
    ...more,
  };
}

const ours = (threads: number, rates: readonly number[], name = 'product') => ({
  row: { name, threads, limit },
  rates,
});
const theirs = (name: string, threads: number, rates: readonly number[]) => ({
  peer: { name, version: '1', threads },
  rates,
});

test('best against best: ratio, fraction of the limit, spread and median', () => {
  const all = measured([ours(1, [60e9, 80e9, 70e9]), theirs('other', 1, [20e9, 40e9, 30e9])]);
  const [{ row, median, medians }] = resultsOf([all]) as [ReturnType<typeof resultsOf>[0]];
  expect(row).toEqual({
    name: 'product',
    shape: '2 x 3',
    threads: 1,
    unit: 'GFLOP/s',
    ours: 80,
    limit: 100,
    fractionOfLimit: 0.8,
    peers: { other: { version: '1', value: 40, ratio: 2 } },
    runs: 3,
    spread: 0.25,
  });
  expect([median, medians]).toEqual([70, { other: 30 }]);
});

test('no limit is lower than the fastest kernel seen under it, in any case', () => {
  const results = resultsOf([measured([ours(1, [120e9]), ours(2, [150e9])]), measured([ours(1, [60e9])])]);
  expect(results.map(({ row }) => [row.limit, row.fractionOfLimit])).toEqual([
    [120, 1],
    [200, 0.75],
    [120, 0.5],
  ]);
});

test('a row shows of each peer the most threads that are not more than its own, and itself on one', () => {
  const all = measured([
    ours(1, [50e9]),
    ours(2, [90e9]),
    theirs('other', 1, [10e9]),
    theirs('other', 2, [18e9]),
    theirs('single', 1, [5e9]),
    theirs('wide', 4, [1e9]),
  ]);
  const [one, two] = resultsOf([all]);
  expect(Object.entries(one!.row.peers).map(([name, { value }]) => [name, value])).toEqual([
    ['other', 10],
    ['single', 5],
  ]);
  expect(Object.entries(two!.row.peers).map(([name, { value }]) => [name, value])).toEqual([
    ['lorikeet, 1 thread', 50],
    ['other', 18],
    ['single', 5],
  ]);
});

test('other rows of the case stand beside one that asks for them, and a peer only in its rows', () => {
  const all = measured([
    ours(1, [80e9], 'f32'),
    { row: { name: 'bf16', threads: 1, versus: { 'lorikeet f32': 'f32' } }, rates: [60e9] },
    { row: { name: 'bf16', threads: 2 }, rates: [70e9] },
    { peer: { name: 'not paired', version: '1', threads: 1, of: ['bf16'], sameThreads: true }, rates: [30e9] },
  ]);
  const [f32, bf16, two] = resultsOf([all]);
  expect(Object.keys(two!.row.peers)).toEqual(['lorikeet, 1 thread']);
  expect(f32!.row.peers).toEqual({});
  expect(bf16!.row).toMatchObject({
    limit: null,
    fractionOfLimit: null,
    peers: { 'lorikeet f32': { value: 80, ratio: 0.75 }, 'not paired': { value: 30, ratio: 2 } },
  });
});

test('where the unit is a time, less is better and the ratio still says who is faster', () => {
  const time = { ...of, unit: 'us', perUnit: 1e-6, isTime: true };
  // 2 and 6 microseconds a call.
  const all = measured([{ row: { threads: 1 }, rates: [1 / 2e-6, 1 / 4e-6] }, theirs('other', 1, [1 / 6e-6])], {
    of: time,
  });
  const [{ row }] = resultsOf([all]) as [ReturnType<typeof resultsOf>[0]];
  expect(row.ours).toBeCloseTo(2);
  expect(row.peers.other!.value).toBeCloseTo(6);
  expect(row.peers.other!.ratio).toBeCloseTo(3);
});

test('a roofline is the slower of memory and arithmetic', () => {
  // 100 FLOP take 1 s, 8 bytes take 4 s of 'read': 25 FLOP a second.
  const limits = { 'multiply-add': 100, copy: 1, read: 2, stream: 1 };
  expect(roofline(100, 8, 100, 'read').rate(limits)).toBe(25);
  expect(roofline(100, 1, 100, 'read').rate(limits)).toBe(100);
});

test('probes are asked for by thread count', () => {
  const contenders = measured([
    ours(1, [1]),
    ours(2, [1]),
    { row: { threads: 2, limit: roofline(1, 1, 1) }, rates: [1] },
  ]);
  expect(neededProbes(contenders.contenders)).toEqual(
    new Map([
      [1, new Set(['multiply-add'])],
      [2, new Set(['multiply-add', 'stream'])],
    ]),
  );
});

test('the Markdown table names machine, versions, medians and ratios', () => {
  const results = resultsOf([measured([ours(1, [80e9, 70e9]), theirs('other', 1, [40e9])])]);
  const text = markdownOf({ date: '2026-01-02', facts: { processor: 'P' } }, results);
  expect(text).toContain('- processor: P');
  expect(text).toContain(
    '| product | 2 x 3 | 1 | GFLOP/s | 80.00 (80.00) | 13 % | 100.0 | 80 % | other **2.00**, 40.00 (40.00) |',
  );
});
