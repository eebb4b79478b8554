import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isTest, manifestOf, readWorkspace, sourceFiles, workspaceOf } from './workspace.ts';

test('a file belongs to the innermost package', () => {
  const workspace = workspaceOf({
    'package.json': '{"name":"root"}',
    'packages/nn/package.json': '{"name":"@lorikeet/nn","dependencies":{"a":"1"}}',
  });
  expect(manifestOf(workspace, 'packages/nn/src/x.ts')?.name).toBe('@lorikeet/nn');
  expect(manifestOf(workspace, 'packages/nnx/src/x.ts')?.name).toBe('root');
  expect(manifestOf(workspace, 'packages/nn/src/x.ts')?.dependencies.has('a')).toBe(true);
});

test('tests are told from source', () => {
  expect(['a.test.ts', 'a.bench.ts', 'a.ts', 'test.ts'].map(isTest)).toEqual([true, true, false, false]);
});

test('a folder without git is read whole, binary files without text', () => {
  const root = mkdtempSync(join(tmpdir(), 'lorikeet-check-'));
  try {
    mkdirSync(join(root, 'node_modules/x'), { recursive: true });
    mkdirSync(join(root, 'src'));
    writeFileSync(join(root, 'node_modules/x/a.ts'), '');
    writeFileSync(join(root, 'src/a.ts'), 'a');
    writeFileSync(join(root, 'src/b.bin'), new Uint8Array([1, 0, 2]));
    const workspace = readWorkspace(root);
    expect(workspace.files).toEqual([
      { path: 'src/a.ts', sizeBytes: 1, text: 'a' },
      { path: 'src/b.bin', sizeBytes: 3, text: undefined },
    ]);
    expect(sourceFiles(workspace)).toEqual([{ path: 'src/a.ts', text: 'a' }]);
  } finally {
    rmSync(root, { recursive: true });
  }
});
