import { readdir, readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exitCodes } from '../errors.ts';
import { propertiesOf, valuesOf } from './key-values.ts';
import { sectionNames, type sectionSchemas } from './schema.ts';

const readme = await readFile(resolve(import.meta.dirname, '../../README.md'), 'utf8');

/** The rows of a section's table, as README.md must have them. */
function configTable(section: keyof typeof sectionSchemas): string {
  const { properties, required } = propertiesOf(section);
  const rows = Object.entries(properties).map(([key, property]) => {
    const fallback = property.default === undefined ? '' : `\`${JSON.stringify(property.default)}\``;
    return `| \`${key}\` | ${valuesOf(property, (literal) => `\`${literal}\``)} | ${required.has(key) ? 'must be given' : fallback} | ${(property.description ?? '').replaceAll('|', '\\|')} |`;
  });
  return [`### ${section}`, '', '| key | values | default | meaning |', '|---|---|---|---|', ...rows, ''].join('\n');
}

describe('README.md', () => {
  it.each(sectionNames)('has every key of the section %s with its default and meaning', (section) => {
    const start = readme.indexOf(`### ${section}\n`);
    const next = readme.slice(start + 4).search(/^##/m);
    expect(readme.slice(start, start + 4 + next)).toBe(`${configTable(section)}\n`);
  });

  it('has every command', async () => {
    const table = readme.split('## Commands')[1]!.split('\n## ')[0]!;
    const shown = [...table.matchAll(/^\| `(\w+)/gm)].map((row) => row[1]);
    const files = await readdir(resolve(import.meta.dirname, '../commands'));
    const commands = files.filter((name) => !name.endsWith('.test.ts')).map((name) => name.replace(/\.ts$/, ''));
    expect(shown.toSorted()).toEqual(commands.toSorted());
  });

  it('has every exit code', () => {
    const table = readme.split('## Exit codes')[1]!.split('\n## ')[0]!;
    const codes = [...table.matchAll(/^\| (\d+) \|/gm)].map((row) => Number(row[1]));
    expect(codes).toEqual(Object.values(exitCodes));
  });
});
