import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const program = fileURLToPath(new URL('./testing/paired.ts', import.meta.url));
const flags = ['--no-liftoff', '--experimental-wasm-revectorize', '--trace-wasm-revectorize'];

/** The largest count of vector operations that V8 paired in one function of the family. */
function pairedOperations(family: string): number {
  const text = execFileSync(process.execPath, [...flags, program, family], { encoding: 'utf8', maxBuffer: 2 ** 28 });
  const counts = text.matchAll(/Decide to vectorize, (\d+) revectorizable nodes/g).map(([, count]) => Number(count));
  return Math.max(0, ...counts);
}

// Losing a pair is silent and costs half the speed, so each family names how many operations must pair.
test.runIf(process.arch === 'x64').each([
  ['elementwise', 50],
  ['dropout', 80],
  ['rows', 60],
  ['reduction', 8],
  ['columns', 40],
  ['norms', 20],
  ['matmul', 80],
  ['smallMatmul', 15],
  ['fewRows', 40],
  ['quantize4bit', 80],
  ['matmul4bit', 80],
  ['rows4bit', 30],
  ['attention', 100],
  ['attentionGrad', 100],
  ['attentionDecode', 90],
])('V8 pairs the vectors of %s', (family, least) => {
  expect(pairedOperations(family)).toBeGreaterThanOrEqual(least);
});
