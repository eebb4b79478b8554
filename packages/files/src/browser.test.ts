import { join } from 'node:path';
import { runInNewContext } from 'node:vm';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

test('the package loads and works where there is no Node', async () => {
  // Bundling for a browser fails on any static import of a node: module; the bundle then runs without `process`.
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, 'index.ts')],
    bundle: true,
    platform: 'browser',
    format: 'iife',
    globalName: 'files',
    write: false,
    logLevel: 'silent',
  });
  const program = `${outputFiles[0]!.text};
    (async () => {
      const memory = files.memoryFiles();
      await files.writeDirectoryAtomic(memory, 'run/a', (draft) => files.writeAtomic(memory, draft + '/x', 'abc'));
      const manifest = await files.verifyManifest(memory, 'run/a');
      let refusal = '';
      try { files.nodeFiles(); } catch (error) { refusal = error.message; }
      return JSON.stringify({ sha256: manifest.files[0].sha256, refusal });
    })()`;
  const found = JSON.parse(await runInNewContext(program, { TextEncoder, TextDecoder, crypto }));
  expect(found.sha256).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  expect(found.refusal).toMatch(/this is not Node\. Use opfsFiles/);
});
