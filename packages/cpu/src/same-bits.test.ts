import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const program = fileURLToPath(new URL('./testing/same-bits.ts', import.meta.url));
const run = (args: string[], flags: string[] = []) =>
  execFileSync(process.execPath, [...flags, program, ...args], { encoding: 'utf8' });

test('1, 2 and 4 threads, revectorization and both compilers of V8 give the same bits in forward and backward', () => {
  const one = run(['1']);
  expect(one).toMatch(/^first [0-9a-f]+\nall [0-9a-f]+\n$/);
  for (const args of [['2'], ['4'], ['2', 'revectorize']]) expect(run(args), args.join(' ')).toBe(one);
  for (const flag of ['--liftoff-only', '--no-liftoff']) expect(run(['2'], [flag]), flag).toBe(one);
});
