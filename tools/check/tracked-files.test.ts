import { expect, test } from 'vitest';
import { checkTrackedFiles } from './tracked-files.ts';
import { workspaceOf } from './workspace.ts';

const model = 'packages/cli/assets/demo/base/model.safetensors';
const large = 'x'.repeat(2 * 1024 * 1024);

test('a file over 2 MiB fails, at 2 MiB it passes', () => {
  const { problems } = checkTrackedFiles(workspaceOf({ 'a.bin': `${large}x`, 'b.bin': large }));
  expect(problems.map(({ path }) => path)).toEqual(['a.bin']);
});

test("only the demo's own model may be larger", () => {
  const { problems } = checkTrackedFiles(workspaceOf({ [model]: `${large}x`, [`copy/${model}`]: `${large}x` }));
  expect(problems.map(({ path }) => path)).toEqual([`copy/${model}`]);
});

test('recordings may take 12 MiB in all, however many files they are', () => {
  const files = (count: number) =>
    workspaceOf(Object.fromEntries(Array.from({ length: count }, (_, i) => [`conformance/recordings/${i}/a`, large])));
  expect(checkTrackedFiles(files(6)).problems).toEqual([]);
  expect(checkTrackedFiles(files(7)).problems.map(({ path }) => path)).toEqual(['conformance/recordings']);
});
