import { execFile } from 'node:child_process';
import { access, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { modelKwargs, peftConfig, trainingConfig } from './sample-finetune/dictionaries.ts';
import { writeTinyProject } from './testing/tiny-folder.ts';

const page = join(import.meta.dirname, '../docs/from-python.md');
const blocks = async (language: string): Promise<string[]> =>
  [...(await readFile(page, 'utf8')).matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 'gs'))].map((m) => m[1]!);

const camelCase = (key: string): string => key.replace(/_(.)/g, (_, c: string) => c.toUpperCase());
/** A Python literal of the page's dictionaries. */
function pythonValue(text: string): unknown {
  const json = text
    .replaceAll('True', 'true')
    .replaceAll('False', 'false')
    .replaceAll('None', 'null')
    .replace(/^torch\.(\w+)$/, '"$1"');
  return JSON.parse(json.replace(/"(\w+)":/g, (_, key: string) => `"${camelCase(key)}":`));
}

describe('docs/from-python.md', () => {
  it("shows the script's dictionaries with every key and value", async () => {
    const python = (await blocks('python')).join('\n');
    const keys = Object.fromEntries(
      [...python.matchAll(/^ {4}"?(\w+)"?(?:: |=)(.+),$/gm)].map(([, key, value]) => {
        try {
          return [camelCase(key!), pythonValue(value!)];
        } catch {
          return [camelCase(key!), undefined]; // an argument that is a variable
        }
      }),
    );
    expect(keys).toMatchObject({ ...trainingConfig, ...peftConfig, ...modelKwargs });
  });

  it('has TypeScript that runs, in order, on a tiny Phi-3', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'from-python-'));
    try {
      await writeTinyProject(dir);
      const paths = {
        './models/Phi-3-mini-4k-instruct': join(dir, 'model'),
        './data/train_sft.jsonl': join(dir, 'train.jsonl'),
        './data/test_sft.jsonl': join(dir, 'test.jsonl'),
        './checkpoint_dir': join(dir, 'out'),
      };
      let program = (await blocks('ts')).join('\n');
      for (const [there, here] of Object.entries(paths)) {
        expect(program.split(`'${there}'`)).toHaveLength(2);
        program = program.replace(`'${there}'`, JSON.stringify(here));
      }
      const { stdout } = await promisify(execFile)(
        process.execPath,
        ['--input-type=module-typescript', '--eval', program],
        { cwd: import.meta.dirname },
      );
      expect(stdout).toMatch(/^bf16: /m);
      expect(stdout).toMatch(/^train loss \d+\.\d+$/m);
      expect(stdout).toMatch(/^eval loss \d+\.\d+, perplexity \d+\.\d+, 20 samples$/m);
      await access(join(dir, 'out', 'adapter', 'adapter_model.safetensors'));
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  }, 120_000);

  it('links to files that are there', async () => {
    const links = [...(await readFile(page, 'utf8')).matchAll(/\]\((\.[^)#]+)\)/g)].map((m) => m[1]!);
    expect(links.length).toBeGreaterThan(2);
    for (const link of links) await access(join(dirname(page), link));
  });

  it('names functions that the packages export', async () => {
    const lora = await import('@lorikeet/lora');
    const all = {
      ...lora,
      lora,
      ...(await import('@lorikeet/nn')),
      ...(await import('@lorikeet/safetensors')),
      ...(await import('@lorikeet/trainer')),
    };
    const table = (await readFile(page, 'utf8')).split('## Names')[1]!.split('\n## ')[0]!;
    const right = table
      .split('\n')
      .filter((line) => line.startsWith('| `'))
      .map((line) => line.split(' | ')[1]!);
    const called = right.flatMap((cell) => [...cell.matchAll(/(?<![.\w])(?:lora\.)?([a-zA-Z]+)\(/g)].map((m) => m[1]!));
    expect(called.length).toBeGreaterThan(8);
    const elsewhere = new Set(['randomKey']); // of @lorikeet/tensor
    for (const name of called) expect(name in all || elsewhere.has(name), name).toBe(true);
  });
});
