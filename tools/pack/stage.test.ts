/** The packages as somebody gets them from a registry: in a plain project, far from this workspace, without TypeScript. */
import { spawnSync } from 'node:child_process';
import { globSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageFolders, stagePackages } from './stage.ts';

const root = resolve(import.meta.dirname, '../..');
const taken = ['tensor', 'cpu', 'files', 'nn', 'safetensors', 'lora'];
let work: string;
beforeAll(async () => {
  work = mkdtempSync(join(tmpdir(), 'lorikeet taken '));
  await stagePackages(
    root,
    taken.map((name) => `packages/${name}`),
    join(work, 'staged'),
  );
}, 240_000);
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** Runs a program in the plain project; returns what it printed. */
function run(command: string, args: readonly string[], cwd = join(work, 'project')): string {
  const ended = spawnSync(command, args, { cwd, encoding: 'utf8' });
  if (ended.error) throw ended.error;
  expect(ended.status, `${command} ${args.join(' ')}: ${ended.stderr}${ended.stdout}`).toBe(0);
  return ended.stdout;
}

/** Dependencies from elsewhere, as this workspace has them: a test must not need a registry. */
function thirdParty(): string[] {
  const paths = taken.flatMap((name) => {
    const { dependencies } = JSON.parse(readFileSync(join(work, 'staged', name, 'package.json'), 'utf8'));
    const others = Object.keys(dependencies).filter((dependency) => !dependency.startsWith('@lorikeet/'));
    return others.map((dependency) => realpathSync(join(root, 'packages', name, 'node_modules', dependency)));
  });
  return [...new Set(paths)];
}

function installTarballs(): void {
  mkdirSync(join(work, 'tarballs'));
  mkdirSync(join(work, 'project'));
  const folders = [...taken.map((name) => join(work, 'staged', name)), ...thirdParty()];
  run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', '../tarballs', ...folders]);
  const tarballs = globSync('*.tgz', { cwd: join(work, 'tarballs') }).map((name) => join('../tarballs', name));
  expect(tarballs).toHaveLength(folders.length);
  writeFileSync(join(work, 'project/package.json'), '{"private": true, "type": "module"}');
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', '--ignore-scripts', ...tarballs]);
}

const program = `import { cpu } from '@lorikeet/cpu';
import { Linear, markOnlyLoraAsTrainable } from '@lorikeet/lora';
import { randomKey, Tensor, tensor } from '@lorikeet/tensor';

await using backend = await cpu({ threads: 2 });
const layer = new Linear(3, 2, { r: 2, loraAlpha: 4, bias: false, backend, key: randomKey(7) });
markOnlyLoraAsTrainable(layer);
const x: Tensor = tensor([[1, 2, 3]], { backend });
const before = await layer.forward(x).toArray();
const gradients = layer.forward(x).sum().backward();
console.log(JSON.stringify({
  same: JSON.stringify(before) === JSON.stringify(await x.matmul(layer.weight, { transposeB: true }).toArray()),
  trained: [gradients.has(layer.weight), gradients.has(layer.lora_B!)],
  shape: gradients.of(layer.lora_B!).shape,
  tensor: layer.weight instanceof Tensor,
}));
`;

test('tarballs install offline, compute on two threads, and declare their types', (context) => {
  if (spawnSync('npm', ['--version']).error) context.skip('skipped: there is no npm on this machine');
  installTarballs();
  writeFileSync(join(work, 'project/program.ts'), program);
  expect(JSON.parse(run(process.execPath, ['program.ts']))).toEqual({
    same: true,
    trained: [false, true],
    shape: [2, 2],
    tensor: true,
  });
  const strict = ['--strict', '--noEmit', '--target', 'esnext', '--module', 'nodenext', '--skipLibCheck', 'false'];
  run(process.execPath, [compiler(), ...strict, 'program.ts']);
}, 240_000);

function compiler(): string {
  const manifest = createRequire(import.meta.url).resolve('typescript/package.json');
  return join(dirname(manifest), 'bin/tsc');
}

test('nothing of the workspace is left in a published folder', () => {
  for (const name of taken) {
    const staged = join(work, 'staged', name);
    const { engines } = JSON.parse(readFileSync(join(staged, 'package.json'), 'utf8'));
    expect(engines, name).toEqual({ node: '>=24' });
    for (const path of globSync('**/*.{js,d.ts,json}', { cwd: staged })) {
      const text = readFileSync(join(staged, path), 'utf8');
      expect(text, path).not.toMatch(/(from|import\() ?['"][^'"]*\.ts['"]/);
      expect(text, path).not.toContain('workspace:');
      expect(text, path).not.toContain(root);
    }
  }
});

test('every package names what its entries become, and ships it', () => {
  for (const folder of packageFolders(root)) {
    const { exports, publishConfig, files } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'));
    expect(Object.keys(publishConfig.exports), folder).toEqual(Object.keys(exports));
    expect(files, basename(folder)).toContain('dist');
  }
});
