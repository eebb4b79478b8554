/**
 * `node benchmarks/time-to-loss.ts`: wall time of training until the held-out loss that TRL + PEFT ends with, on oasst-en100 with a
 * small model (stories260K), from the same token ids, adapter, batch size and learning rate.
 *   --data DIR      the folder with oasst-en100 and stories260k (default ../shared/data)
 *   --steps N       of TRL (default 60); ours go on until the loss is reached, at most twice as many
 *   --threads N     default 2
 *   --out FILE      the results as JSON
 * Counted are optimizer steps with their data and loop; loading and measuring the held-out loss are not, on either side.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type CpuBackend, cpu } from '@lorikeet/cpu';
import { memoryFiles, nodeFiles } from '@lorikeet/files';
import { loadAdapter } from '@lorikeet/lora';
import { loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import { noGrad, scope } from '@lorikeet/tensor';
import { train } from '@lorikeet/trainer';
import { tokenizerIn } from './chat-rows.ts';
import { lastObject, measure } from './full-size/measured-process.ts';
import { batchOf } from './ours/steps.ts';
import { pythonOf } from './python/transformers-peer.ts';
import { adapterFor } from './wide-model.ts';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const { values } = parseArgs({
  options: {
    data: { type: 'string', default: here('../../shared/data') },
    steps: { type: 'string', default: '60' },
    threads: { type: 'string', default: '2' },
    out: { type: 'string' },
  },
});
const steps = Number(values.steps);
const model = join(values.data, 'stories260k/phi3');
const [batchRows, learningRate, maxLength, evalSteps] = [8, 2e-3, 256, 5];

type Rows = readonly (readonly number[])[];
interface Data {
  readonly train: Rows;
  readonly heldOut: Rows;
}

/** A chat as plain text: the model knows no chat tokens. */
function readRows(name: string): number[][] {
  const tokenizer = tokenizerIn(model);
  const lines = readFileSync(join(values.data, 'oasst-en100', name), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => {
    const { messages } = JSON.parse(line) as { messages: { role: string; content: string }[] };
    return [...tokenizer.encode(messages.map(({ role, content }) => `${role}: ${content}`).join('\n'))].slice(
      0,
      maxLength,
    );
  });
}

/** The order of the file, shuffled by a fixed rule (Fisher and Yates on a Lehmer generator). */
function shuffled<T>(items: readonly T[]): T[] {
  const order = [...items];
  let state = 1;
  for (let i = order.length - 1; i > 0; i--) {
    state = (state * 48271) % 2147483647;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

const rowOf = (ids: readonly number[]) => ({ ids: Int32Array.from(ids), labels: Int32Array.from(ids) });
const batchesOf = (rows: Rows) =>
  Array.from({ length: Math.floor(rows.length / batchRows) }, (_, i) =>
    batchOf(rows.slice(i * batchRows, (i + 1) * batchRows).map(rowOf)),
  );

async function heldOutLoss(trained: Phi3ForCausalLM, rows: Rows): Promise<number> {
  let [total, count] = [0, 0];
  for (let at = 0; at < rows.length; at += batchRows) {
    const part = rows.slice(at, at + batchRows);
    using loss = noGrad(() => scope(() => trained.loss(batchOf(part.map(rowOf)), { normalizer: 1 })));
    total += await loss.item();
    for (const { length } of part) count += length - 1;
  }
  return total / count;
}

interface Ours {
  readonly before: number;
  readonly curve: readonly { readonly step: number; readonly seconds: number; readonly heldOutLoss: number }[];
}

/** Trains with the trainer's loop and looks at the held-out loss every few steps, the clock stopped. */
async function ours(backend: CpuBackend, adapter: string, data: Data): Promise<Ours> {
  const trained = await loadPhi3(nodeFiles(), model, { backend });
  await loadAdapter(nodeFiles(), adapter, trained, { trainable: true });
  const before = await heldOutLoss(trained, data.heldOut);
  const batches = batchesOf(shuffled(data.train)).map((batch) => ({
    ...batch,
    lines: [],
    trainedTokens: batch.ids.length - batch.lengths.length,
  }));
  let drawn = 0;
  const next = () => batches[drawn++ % batches.length]!;
  const source = { batchesPerEpoch: batches.length, next, state: () => drawn, restore: () => {} };
  const curve: { step: number; seconds: number; heldOutLoss: number }[] = [];
  let [seconds, resumed] = [0, performance.now()];
  const evaluate = async (): Promise<{ evalLoss: number }> => {
    seconds += (performance.now() - resumed) / 1000;
    const evalLoss = await heldOutLoss(trained, data.heldOut);
    curve.push({ step: drawn, seconds, heldOutLoss: evalLoss });
    resumed = performance.now();
    return { evalLoss };
  };
  const options = {
    learningRate, lrSchedulerType: 'constant', weightDecay: 0, maxSteps: 2 * steps, saveStrategy: 'no', evalStrategy: 'steps', evalSteps,
  } as const; // biome-ignore format: options
  const loss = (batch: (typeof batches)[number], given: { readonly normalizer: number }) => trained.loss(batch, given);
  for await (const _ of train(trained, loss, source, { ...options, evaluate, files: memoryFiles(), outputDir: 'run' }));
  trained.dispose();
  return { before, curve };
}

interface Theirs {
  readonly seconds: number;
  readonly before: number;
  readonly after: number;
  readonly version: string;
}

async function theirs(adapter: string, file: string, dtype: 'f32' | 'bf16'): Promise<Theirs> {
  const command = [
    pythonOf(), here('./python/trl_training.py'), '--model', model, '--adapter', adapter, '--data', file, '--steps', `${steps}`,
    '--batch', `${batchRows}`, '--lr', `${learningRate}`, '--dtype', dtype, '--threads', values.threads,
  ]; // biome-ignore format: a command line
  return lastObject<Theirs>((await measure(command)).stdout);
}

const backend = await cpu({ revectorize: 'auto', threads: Number(values.threads) });
const work = mkdtempSync(join(tmpdir(), 'lorikeet-bench-'));
const folder = await adapterFor(backend, model);
const data: Data = { train: readRows('messages.train.jsonl'), heldOut: readRows('messages.valid.jsonl') };
writeFileSync(join(work, 'data.json'), JSON.stringify(data));
const results = [];
for (const round of [1, 2]) {
  const curve = await ours(backend, folder.adapter, data);
  const [f32, bf16] = [
    await theirs(folder.adapter, join(work, 'data.json'), 'f32'),
    await theirs(folder.adapter, join(work, 'data.json'), 'bf16'),
  ];
  if (!(Math.abs(curve.before - f32.before) <= 1e-4 * f32.before))
    throw new Error(`time-to-loss: before training the held-out loss is ${curve.before}, TRL's ${f32.before}.`);
  const fastest = bf16.seconds < f32.seconds ? bf16 : f32;
  const reached = curve.curve.find(({ heldOutLoss: loss }) => loss <= fastest.after) ?? null;
  const ratio = reached && fastest.seconds / reached.seconds;
  results.push({ round, ours: curve, trlF32: f32, trlBf16: bf16, reached, ratio });
  console.log(
    `TRL f32 ${f32.seconds.toFixed(1)} s to ${f32.after.toFixed(4)}, bf16 ${bf16.seconds.toFixed(1)} s to ${bf16.after.toFixed(4)}; ours ` +
      (reached
        ? `${reached.seconds.toFixed(1)} s (step ${reached.step}) to ${reached.heldOutLoss.toFixed(4)}: ${ratio!.toFixed(2)} x`
        : 'did not reach it'),
  );
}
folder.remove();
rmSync(work, { recursive: true, force: true });
await backend.close();
if (values.out) {
  const machine = {
    processor: cpus()[0]?.model ?? 'unknown',
    threads: Number(values.threads),
    node: process.versions.node,
  };
  const settings = { steps, batchRows, learningRate, maxLength, evalSteps };
  writeFileSync(
    values.out,
    `${JSON.stringify({ date: new Date().toISOString(), machine, settings, results }, null, 2)}\n`,
  );
}
