import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkFormatAndLint } from './format-and-lint.ts';
import { checkTypes } from './types.ts';

const root = resolve(import.meta.dirname, '../..');
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lorikeet-check-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
const project = '{"compilerOptions":{"strict":true,"noEmit":true,"types":[],"lib":["esnext"]},"include":["*.ts"]}';

test('an unformatted file and an unused variable fail, a clean file passes', () => {
  write('biome.json', '{}\n');
  write('a.ts', 'export const a  = 1\n');
  write('b.ts', 'const b = 1;\n');
  expect(checkFormatAndLint(root, folder).problems).toEqual([
    { path: 'a.ts', message: expect.stringContaining('not formatted') },
    { path: 'b.ts', line: 1, message: expect.stringContaining('noUnusedVariables') },
  ]);
  write('a.ts', 'export const a = 1;\n');
  write('b.ts', 'export const b = 1;\n');
  expect(checkFormatAndLint(root, folder)).toEqual({ problems: [], detail: '3 files' });
});

test('a broken Biome configuration fails', () => {
  write('biome.json', '{ "linter": 1 }\n');
  expect(checkFormatAndLint(root, folder).problems).not.toEqual([]);
});

test('a type error fails with its place, a sound file passes', () => {
  write('tsconfig.json', project);
  write('a.ts', 'export {};\nexport const a: string = 1;\n');
  expect(checkTypes(root, folder).problems).toEqual([
    { path: 'a.ts', line: 2, message: expect.stringContaining('TS2322') },
  ]);
  write('a.ts', "export const a: string = '1';\n");
  expect(checkTypes(root, folder).problems).toEqual([]);
});

test('a project that the compiler cannot read fails', () => {
  write('tsconfig.json', '{"include":["*.ts"]}');
  expect(checkTypes(root, folder).problems).toEqual([
    { path: 'tsconfig.json', message: expect.stringContaining('TS18003') },
  ]);
});
