/**
 * Runs every TypeScript block of the README files as a program of its own, from a folder that holds a small Phi-3 (the demo's)
 * as `Phi-3-mini-4k-instruct` and its rows as `chats.jsonl`. What a `console.log` line says behind `//` is what it must print.
 */
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');
const demo = join(root, 'packages/cli/assets/demo');
const run = promisify(execFile);

interface Page {
  /** From the root: `packages/nn/README.md`. */
  readonly path: string;
  readonly text: string;
}

interface Snippet {
  /** `packages-nn-README-1`: also its folder. */
  readonly name: string;
  readonly code: string;
}

const packageNames = (await readdir(join(root, 'packages'))).sort();
const pages: readonly Page[] = await Promise.all(
  ['README.md', 'README.ko.md', ...packageNames.map((name) => `packages/${name}/README.md`)].map(async (path) => ({
    path,
    text: await readFile(join(root, path), 'utf8'),
  })),
);

const snippetsOf = ({ path, text }: Page): Snippet[] =>
  [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map((block, i) => ({
    name: `${path.replace(/\.md$/, '').replaceAll(/[/.]/g, '-')}-${i + 1}`,
    code: block[1]!,
  }));

const promised = /^(\s*)console\.log\((.*)\);\s*\/\/ (.+)$/;

/** What each line of a program promises to print, by its line number. */
const promisesOf = (code: string): Map<number, string> =>
  new Map(
    code.split('\n').flatMap((line, i) => {
      const found = promised.exec(line);
      return found ? [[i, found[3]!] as const] : [];
    }),
  );

/** The program with a mark before what such a line prints. */
const marked = (code: string): string =>
  code
    .split('\n')
    .map((line, i) => line.replace(promised, `$1console.log('@${i}@', $2);`))
    .join('\n');

/** Node's spelling of arrays and objects and ours: `[ 1, 2 ]`, `[1, 2]`. */
const plain = (text: string): string => text.replaceAll(/(?<=[[{]) | (?=[\]}])/g, '').trim();

// Hidden and below a folder that git ignores: neither `tsc -p` nor git sees the programs while they run.
const made = join(import.meta.dirname, 'runs');
let dir = '';

beforeAll(async () => {
  await mkdir(made, { recursive: true });
  dir = await mkdtemp(join(made, '.readme-'));
  for (const { name, code } of pages.flatMap(snippetsOf)) {
    await mkdir(join(dir, name));
    await writeFile(join(dir, name, 'snippet.ts'), code);
    await writeFile(join(dir, name, 'marked.ts'), marked(code));
    await symlink(join(demo, 'base'), join(dir, name, 'Phi-3-mini-4k-instruct'), 'junction');
    await writeFile(join(dir, name, 'chats.jsonl'), await readFile(join(demo, 'train.jsonl')));
  }
});
afterAll(async () => {
  if (dir) await rm(dir, { recursive: true, force: true });
});

describe('TypeScript of the README files', () => {
  for (const { name, code } of pages.flatMap(snippetsOf))
    it(`${name} runs and prints what it says`, async () => {
      const { stdout } = await run(process.execPath, ['marked.ts'], { cwd: join(dir, name) });
      const printed = stdout.split('\n');
      for (const [line, expected] of promisesOf(code)) {
        const mark = `@${line}@ `;
        const lines = printed.filter((text) => text.startsWith(mark)).map((text) => plain(text.slice(mark.length)));
        expect(lines.length, `line ${line + 1} was not reached`).toBeGreaterThan(0);
        for (const text of lines) expect(text, `line ${line + 1}`).toBe(plain(expected));
      }
    }, 180_000);

  it('has no type errors', async () => {
    const config = { extends: join(root, 'tsconfig.json'), include: ['*/snippet.ts'], exclude: [] };
    await writeFile(join(dir, 'tsconfig.json'), JSON.stringify(config));
    const compiler = join(root, 'node_modules/typescript/bin/tsc');
    const outcome = await run(process.execPath, [compiler, '-p', dir], { cwd: dir }).catch((error) => error);
    expect(outcome.stdout).toBe('');
    expect(outcome).not.toBeInstanceOf(Error);
  }, 180_000);
});

describe.each(packageNames)('packages/%s/README.md', (folder) => {
  const { path, text } = pages.find((page) => page.path === `packages/${folder}/README.md`)!;

  it('names the package, how to install it, and the picture of the house', async () => {
    const { name } = JSON.parse(await readFile(join(root, 'packages', folder, 'package.json'), 'utf8'));
    expect(text.split('\n')[0]).toBe(`# ${name}`);
    expect(text).toContain(`npm install ${name}`);
    expect(text).toContain('](../../ARCHITECTURE.md)');
    expect(snippetsOf({ path, text }).length).toBeGreaterThan(0);
  });

  it('links to files that are there', async () => {
    for (const [, link] of text.matchAll(/\]\((\.[^)#]+)\)/g)) await access(join(root, dirname(path), link!));
  });

  it('lists exports that exist', async () => {
    const manifest = JSON.parse(await readFile(join(root, 'packages', folder, 'package.json'), 'utf8'));
    const entries: string[] = Object.values(manifest.exports as Record<string, string>);
    const known = new Set<string>();
    for (const entry of entries) {
      const source = join(root, 'packages', folder, entry);
      for (const name of Object.keys(await import(source))) known.add(name);
      for (const [name] of (await readFile(source, 'utf8')).matchAll(/\w+/g)) known.add(name);
    }
    const tables = [...text.matchAll(/^\| export.*\n(?:\|.*\n)+/gm)].map((table) => table[0]);
    const rows = tables.flatMap((table) => table.trimEnd().split('\n').slice(2));
    const names = rows.flatMap((row) =>
      [...row.split(' | ')[0]!.matchAll(/`(\w+)(?:\(.*?\))?`/g)].map((found) => found[1]!),
    );
    expect(names.length, path).toBeGreaterThan(1);
    expect(names.filter((name) => !known.has(name))).toEqual([]);
  });
});
