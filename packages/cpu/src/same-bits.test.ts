import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const program = fileURLToPath(new URL('./testing/same-bits.ts', import.meta.url));
const run = (...args: string[]) => execFileSync(process.execPath, [program, ...args], { encoding: 'utf8' });

test('1, 2 and 4 threads and revectorization give the same bits in forward and backward', () => {
  const one = run('1');
  expect(one).toMatch(/^first [0-9a-f]+\nall [0-9a-f]+\n$/);
  for (const args of [['2'], ['4'], ['2', 'revectorize']]) expect(run(...args), args.join(' ')).toBe(one);
});
