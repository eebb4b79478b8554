import { cpu } from '@lorikeet/cpu';
import { memoryFiles } from '@lorikeet/files';
import { loadAdapter } from '@lorikeet/lora';
import { loadPhi3 } from '@lorikeet/phi3';
import { memory } from '@lorikeet/tensor';
import { expect, it } from 'vitest';
import { finetune } from './finetune.ts';
import { chatLines, writeTinyFolder } from './testing/tiny-folder.ts';

it('examples/finetune.ts: the loss falls on held-out rows, the adapter loads again, nothing is left alive', async () => {
  const backend = await cpu();
  const files = memoryFiles();
  await writeTinyFolder(files, 'model', backend);
  await files.append('chats.jsonl', new TextEncoder().encode(chatLines(60)));
  await files.makeDirectory('out');
  const lines: string[] = [];
  const run = () =>
    finetune({
      files,
      backend,
      modelDir: 'model',
      dataPath: 'chats.jsonl',
      outputDir: 'out',
      steps: 30,
      batchSize: 4,
      learningRate: 2e-3,
      print: (line) => lines.push(line),
    });
  const { losses, before, after, answer } = await run();
  expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.8);
  expect(after.evalLoss).toBeLessThan(before.evalLoss * 0.8);
  expect(after.tokens).toBe(before.tokens);
  expect(typeof answer).toBe('string');
  expect(lines[0]).toMatch(/^trainable params: [\d,]+ \|\| all params: [\d,]+ \|\| trainable%: /);
  expect(await files.list('out/adapter')).toEqual(
    expect.arrayContaining(['adapter_config.json', 'adapter_model.safetensors']),
  );
  const weights = await files.read('out/adapter/adapter_model.safetensors');
  {
    using model = await loadPhi3(files, 'model', { backend });
    expect((await loadAdapter(files, 'out/adapter', model)).warnings).toEqual([]);
  }
  expect(memory(backend).liveTensors).toBe(0);
  expect((await run()).losses).toEqual(losses); // the same seed, the same bits
  expect(await files.read('out/adapter/adapter_model.safetensors')).toEqual(weights);
  await backend.close();
});
