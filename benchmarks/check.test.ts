/** Our own results pass each check, and a wrong entry fails it. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cpu } from '@lorikeet/cpu';
import { expect, test } from 'vitest';
import { checkerOf } from './check.ts';
import { draw, drawLabels } from './data.ts';
import { ourWork } from './ours/work.ts';
import type { MapFunction, WorkSpec } from './peer.ts';
import { readOutputs, readWork, writeOutputs, writeWork } from './work-files.ts';

const both = 'both' as const;
const maps: readonly MapFunction[] = ['copy', 'exp', 'log', 'tanh', 'sigmoid', 'sin', 'cos', 'silu', 'gelu'];
const specs: readonly WorkSpec[] = [
  ...[
    [false, true],
    [true, false],
  ].map(([transposeA, transposeB]): WorkSpec => {
    const [batch, m, k, n] = [2, 5, 33, 7];
    return { op: 'matmul', batch, m, k, n, transposeA: transposeA!, transposeB: transposeB!, dtype: 'f32', a: draw(batch * m * k, 1), b: [draw(batch * k * n, 2)] };
  }),
  { op: 'attention', direction: both, heads: 2, width: 8, queries: 5, keys: 9, q: draw(80, 1), k: [draw(144, 2)], v: [draw(144, 3)], gradient: draw(80, 4) },
  { op: 'rmsNorm', direction: both, rows: 4, width: 33, eps: 1e-5, x: draw(132, 1), weight: draw(33, 2), gradient: draw(132, 3) },
  { op: 'swiglu', direction: both, rows: 3, width: 20, gate: draw(60, 1), up: draw(60, 2), gradient: draw(60, 3) },
  { op: 'rope', direction: both, tokens: 3, heads: 2, width: 8, x: draw(48, 1), cos: draw(12, 2), sin: draw(12, 3), gradient: draw(48, 4) },
  { op: 'softmax', direction: both, rows: 3, width: 20, x: draw(60, 1), gradient: draw(60, 2) },
  { op: 'dropout', rows: 40, width: 50, p: 0.1, x: draw(2000, 1) },
  { op: 'crossEntropy', direction: both, rows: 6, classes: 11, logits: draw(66, 1), labels: drawLabels(6, 11, 3) },
  { op: 'linearCrossEntropy', direction: both, rows: 6, width: 16, classes: 11, dtype: 'f32', x: draw(96, 1), w: draw(176, 2), labels: drawLabels(6, 11, 2) },
  { op: 'adamw', elements: 50, lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.1, parameter: draw(50, 1), gradient: draw(50, 2) },
  ...maps.map((map): WorkSpec => ({ op: 'map', map, elements: 50, x: map === 'log' ? draw(50, 1).map(Math.abs) : draw(50, 1) })),
  { op: 'map', map: 'add', elements: 50, x: draw(50, 1), y: draw(50, 2) },
  ...(['all', 0, 1] as const).map((axis): WorkSpec => ({ op: 'sum', axis, rows: 7, width: 9, x: draw(63, 1) })),
]; // biome-ignore format: a table

const titles = specs.map((spec) => [`${spec.op} ${'map' in spec ? spec.map : ''}`.trim(), spec] as const);

test.each(titles)('%s: ours passes its check, and a wrong entry of each output fails it', async (_, spec) => {
  await using backend = await cpu({ threads: 2 });
  const work = ourWork(spec, backend)!;
  for (let i = 0; i < 3; i++) work.run!();
  const outputs = await work.result();
  const check = checkerOf(spec);
  check('ours', outputs);
  for (const i of outputs.keys()) {
    const wrong = outputs.map((values, o) => (o === i ? values.map((x) => x + 0.5) : values));
    expect(() => check('wrong', wrong)).toThrow('wrong: ');
  }
  work.dispose();
  expect(backend.describe().liveBytes).toBeLessThan(40 * 2 ** 20);
});

test('a spec crosses processes as files, and so do results', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lorikeet-bench-test-'));
  try {
    for (const spec of specs) {
      writeWork(folder, spec);
      expect(readWork(folder)).toEqual(spec);
    }
    writeOutputs(folder, [draw(5, 1), draw(3, 2)]);
    expect(readOutputs(folder, 2)).toEqual([draw(5, 1), draw(3, 2)]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('whole steps have no entries: a case brings its own check', () => {
  expect(() => checkerOf({ op: 'generation', model: '', prompt: new Int32Array(1), newTokens: 1 })).toThrow(
    'bench: generation has no check',
  );
});
