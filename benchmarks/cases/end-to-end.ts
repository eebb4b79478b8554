/** Whole steps and generation beside PyTorch, transformers + PEFT and the JavaScript libraries, from the same files. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { memoryFiles } from '@lorikeet/files';
import { train } from '@lorikeet/trainer';
import type { BenchCase, BenchContender, BenchContext } from '../case.ts';
import { demoFolder, demoRows, fourChats } from '../chat-rows.ts';
import { draw, drawLabels } from '../data.ts';
import { lastObject, measure } from '../full-size/measured-process.ts';
import { batchesOf, generationWork, loraWork, mlpWork, openTrained } from '../ours/steps.ts';
import type { GenerationSpec, LoraStepSpec, MlpStepSpec, Peer, PeerWork, WorkSpec } from '../peer.ts';
import {
  envOf,
  hasTransformers,
  onceCommand,
  openTransformers,
  type TransformersSetting,
  trainingSettings,
} from '../python/transformers-peer.ts';
import { adapterFor, type ModelFolder, wideModel } from '../wide-model.ts';
import { writeWork } from '../work-files.ts';
import { sharedPrefixCase } from './shared-prefix.ts';

const timing = ({ run, seconds }: PeerWork) => ({ ...(run && { run }), ...(seconds && { seconds }) });

/** Ours on each thread count, whose first result is what the others must agree with. */
async function oursOf(
  context: BenchContext,
  row: { readonly name: string; readonly work: number },
  make: (backend: BenchContext['many']) => Promise<PeerWork>,
): Promise<{ contenders: BenchContender[]; result: readonly Float32Array[] }> {
  const contenders: BenchContender[] = [];
  let result: readonly Float32Array[] = [];
  for (const [threads, backend] of context.backends) {
    const work = await make(backend);
    context.defer(() => work.dispose());
    result = await work.result();
    contenders.push({
      name: `${row.name}, ${threads} threads`,
      work: row.work,
      ...timing(work),
      row: { name: row.name, threads },
    });
  }
  return { contenders, result };
}

/** bf16 arithmetic keeps 8 bits: its loss is another one. */
const lossTolerance = (name: string): number => (name.includes('bf16') ? 5e-3 : 1e-4);

interface Beside {
  readonly spec: WorkSpec;
  /** Work of one call of the peer. */
  readonly work: number;
  readonly agrees: (name: string, got: readonly Float32Array[]) => void;
}

async function peerContenders(
  context: BenchContext,
  peers: readonly Peer[],
  { spec, work, agrees }: Beside,
): Promise<BenchContender[]> {
  const contenders: BenchContender[] = [];
  for (const peer of peers) {
    const { name, version, threads } = peer;
    try {
      const made = await peer.work(spec);
      if (made === null) continue;
      context.defer(() => made.dispose());
      if ((made.part ?? 1) === 1) agrees(name, await made.result());
      contenders.push({
        name: `${name}, ${threads} threads`,
        work: work * (made.part ?? 1),
        ...timing(made),
        peer: { name, version, threads },
      });
    } catch (error) {
      console.log(`${name} on ${threads} threads is left out: ${error instanceof Error ? error.message : error}`);
    }
  }
  return contenders;
}

const sameLosses =
  (want: readonly Float32Array[]): Beside['agrees'] =>
  (name, [got]) => {
    for (const [i, loss] of want[0]!.entries())
      if (!(Math.abs(got![i]! - loss) <= lossTolerance(name) * loss))
        throw new Error(`${name}: the loss of step ${i + 1} is ${got![i]}, ours ${loss}`);
  };

/** transformers in all settings, on the largest thread count. */
async function transformersPeers(context: BenchContext, settings: readonly TransformersSetting[]): Promise<Peer[]> {
  if (context.peers.length === 0 || !hasTransformers()) return [];
  const peers: Peer[] = [];
  for (const setting of settings) peers.push(await openTransformers(setting, Math.max(...context.backends.keys())));
  context.defer(() => void Promise.all(peers.map((peer) => peer.close())));
  return peers;
}

const mlpSpec = (): MlpStepSpec => {
  const sizes = [784, 512, 10];
  const parts = sizes.slice(1).map((out, i) => ({ out, fan: sizes[i]! }));
  return {
    op: 'mlpStep', batch: 128, sizes, lr: 0.01, x: draw(128 * 784, 1), labels: drawLabels(128, 10),
    weights: parts.map(({ out, fan }, i) => draw(out * fan, 2 + i, fan ** -0.5)), biases: parts.map(({ out }, i) => draw(out, 5 + i, 0.1)),
  }; // biome-ignore format: one object
};

const mlp: BenchCase = {
  name: 'MLP step',
  shape: '784-512-10, batch 128, SGD, the loss read back',
  unit: 'steps/s',
  perUnit: 1,
  async contenders(context) {
    const spec = mlpSpec();
    const { contenders, result } = await oursOf(context, { name: this.name, work: 1 }, async (backend) =>
      mlpWork(spec, backend),
    );
    const peers = await peerContenders(context, context.peers, { spec, work: 1, agrees: sameLosses(result) });
    return [...contenders, ...peers];
  },
};

const tokensOf = ({ rows }: LoraStepSpec): number => rows.reduce((sum, { ids }) => sum + ids.length, 0);

const widthText = 'Phi-3 blocks of width 1024, 8 layers, bf16';
const chatSpec = ({ model, adapter }: ModelFolder): LoraStepSpec => ({
  op: 'loraStep',
  model,
  adapter,
  lr: 1e-4,
  rows: fourChats().rows,
});

const loraStep: BenchCase = {
  name: 'LoRA step',
  shape: `${widthText}, r 16 on all linears, 4 chats of at most 256 tokens`,
  unit: 'tokens/s',
  perUnit: 1,
  async contenders(context) {
    const folder = await wideModel(context.many);
    context.defer(folder.remove);
    const spec = chatSpec(folder);
    const row = { name: this.name, work: tokensOf(spec) };
    const { contenders, result } = await oursOf(context, row, (backend) => loraWork(spec, backend));
    const peers = [...(await transformersPeers(context, trainingSettings)), ...context.peers];
    return [
      ...contenders,
      ...(await peerContenders(context, peers, { spec, work: row.work, agrees: sameLosses(result) })),
    ];
  },
};

const ourOnce = fileURLToPath(new URL('../ours/lora-once.ts', import.meta.url));

/** Processes of their own, each the whole of it: opening, three steps, the kernel's mark of the most memory (VmHWM). */
const loraMemory: BenchCase = {
  name: 'LoRA step, peak memory',
  shape: `${widthText}: a process that loads and takes 3 steps`,
  unit: 'GB',
  perUnit: 1e9,
  isTime: true,
  async contenders(context) {
    const folder = await wideModel(context.many);
    const work = mkdtempSync(join(tmpdir(), 'lorikeet-bench-'));
    context.defer(() => rmSync(work, { recursive: true, force: true }));
    context.defer(folder.remove);
    writeWork(work, chatSpec(folder));
    const threads = Math.max(...context.backends.keys());
    const peakOf = async (command: readonly string[], env: Record<string, string> = {}): Promise<number> => {
      const { stdout, peakBytes } = await measure(command, { env });
      return Math.max(peakBytes, lastObject<{ peakBytes: number }>(stdout).peakBytes);
    };
    const contender = (name: string, command: readonly string[], env?: Record<string, string>) => ({
      name,
      work: 1,
      maxRounds: 2,
      seconds: () => peakOf(command, env),
    });
    const ours = [process.execPath, ourOnce, work, `${threads}`];
    const settings = context.peers.length > 0 && hasTransformers() ? trainingSettings : [];
    return [
      { ...contender(this.name, ours), row: { threads } },
      ...settings.map((setting) => ({
        ...contender(setting.name, onceCommand(setting, work, threads), envOf(setting)),
        peer: { name: setting.name, version: 'the process', threads },
      })),
    ];
  },
};

const newTokens = 64;

const generation: BenchCase = {
  name: 'greedy generation',
  shape: `${widthText}: a prompt of 64 tokens and ${newTokens} new ones, cached`,
  unit: 'tokens/s',
  perUnit: 1,
  async contenders(context) {
    const folder = await wideModel(context.many);
    context.defer(folder.remove);
    const prompt = Int32Array.from({ length: 64 }, (_, i) => 3 + ((i * 7919) % 31_000));
    const spec: GenerationSpec = { op: 'generation', model: folder.model, prompt, newTokens };
    const { contenders, result } = await oursOf(context, { name: this.name, work: newTokens }, (backend) =>
      generationWork(spec, backend),
    );
    const agrees: Beside['agrees'] = (name, [got]) => {
      const same = got!.findIndex((id, i) => id !== result[0]![i]);
      if (same >= 0 && !name.includes('bf16'))
        throw new Error(`${name}: token ${same} is ${got![same]}, ours ${result[0]![same]}`);
    };
    const settings = trainingSettings.filter(({ rows }) => rows === 'padded');
    const peers = [...(await transformersPeers(context, settings)), ...context.peers];
    return [...contenders, ...(await peerContenders(context, peers, { spec, work: newTokens, agrees }))];
  },
};

const demoBatchRows = 16;
const demoSteps = 20;

/** The trainer's own loop, log and clipping included; PyTorch's is a bare loop. */
async function demoRun(
  spec: LoraStepSpec,
  backend: BenchContext['many'],
): Promise<{ run: () => Promise<void>; dispose: () => void }> {
  const model = await openTrained(spec, backend);
  const batches = batchesOf(spec).map((batch) => ({
    ...batch,
    lines: [],
    trainedTokens: batch.labels.reduce((count, label) => count + Number(label >= 0), 0),
  }));
  let drawn = 0;
  const source = {
    batchesPerEpoch: batches.length,
    next: () => batches[drawn++ % batches.length]!,
    state: () => drawn,
    restore: () => {},
  };
  const options = {
    learningRate: spec.lr,
    weightDecay: 0,
    maxSteps: batches.length,
    saveStrategy: 'no',
    loggingSteps: 5,
  } as const;
  const run = async (): Promise<void> => {
    const loss = (batch: (typeof batches)[number], given: { readonly normalizer: number }) => model.loss(batch, given);
    for await (const _ of train(model, loss, source, { ...options, files: memoryFiles(), outputDir: 'demo' }));
  };
  return { run, dispose: () => model.dispose() };
}

const demo: BenchCase = {
  name: "the demo's training",
  shape: `its base (1.2 M weights), r 16 on all linears, ${demoSteps} batches of ${demoBatchRows} rows, the trainer's loop`,
  unit: 'tokens/s',
  perUnit: 1,
  async contenders(context) {
    const folder = await adapterFor(context.many, join(demoFolder, 'base'));
    context.defer(folder.remove);
    const { model, adapter } = folder;
    const rows = demoRows(demoSteps * demoBatchRows);
    const spec: LoraStepSpec = { op: 'loraStep', model, adapter, lr: 1e-4, rows, rowsPerStep: demoBatchRows };
    const row = { name: this.name, work: tokensOf(spec) };
    const { contenders } = await oursOf(context, row, async (backend) => {
      const { run, dispose } = await demoRun(spec, backend);
      return { run, dispose, result: async () => [] };
    });
    const step = await loraWork(spec, context.many);
    const want = await step.result();
    step.dispose();
    const peers = await transformersPeers(context, trainingSettings);
    return [
      ...contenders,
      ...(await peerContenders(context, peers, { spec, work: row.work, agrees: sameLosses(want) })),
    ];
  },
};

export const endToEndCases: readonly BenchCase[] = [mlp, loraStep, loraMemory, generation, demo, sharedPrefixCase];
