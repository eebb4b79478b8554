/** Phases that the command line has no command for: each runs in a process of its own and prints one JSON object. */
import { parseArgs } from 'node:util';
import { cpu } from '@lorikeet/cpu';
import { joinPath, nodeFiles } from '@lorikeet/files';
import { loadAdapter, quantizedLinear, readQuantizationConfig } from '@lorikeet/lora';
import { generate, loadPhi3, type Phi3ForCausalLM } from '@lorikeet/phi3';
import { peakOf } from './measured-process.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string' },
    adapter: { type: 'string' },
    quantize: { type: 'boolean', default: false },
    'compute-dtype': { type: 'string', default: 'f32' },
    tokens: { type: 'string', default: '32' },
    threads: { type: 'string', default: '2' },
  },
});
const files = nodeFiles();
const dir = values.model!;
const pieceBytes = 8 << 20;
const promptTokens = 16;

const elapsedSeconds = async (run: () => Promise<unknown>): Promise<number> => {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1000;
};

/** Every byte of the shards once, as loading reads them. */
async function readAll(): Promise<number> {
  let bytes = 0;
  for (const name of (await files.list(dir)).filter((file) => file.endsWith('.safetensors'))) {
    const path = joinPath(dir, name);
    const size = await files.size(path);
    for (let at = 0; at < size; at += pieceBytes) {
      const piece = await files.readRange(path, at, Math.min(pieceBytes, size - at));
      bytes += piece.length;
      (piece.buffer as ArrayBuffer).transfer(0);
    }
  }
  return bytes;
}

async function read(): Promise<object> {
  let bytes = 0;
  const seconds: number[] = [];
  for (let i = 0; i < 2; i++) seconds.push(await elapsedSeconds(async () => (bytes = await readAll())));
  return { bytes, firstSeconds: seconds[0], againSeconds: seconds[1] };
}

async function open(): Promise<{ model: Phi3ForCausalLM; seconds: number; close: () => Promise<void> }> {
  const backend = await cpu({ revectorize: 'auto', threads: Number(values.threads) });
  const stored = await readQuantizationConfig(files, dir);
  const asked = values.quantize
    ? ({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true } as const)
    : stored;
  const computeDtype = values['compute-dtype'] as 'f32' | 'int8';
  let model!: Phi3ForCausalLM;
  const seconds = await elapsedSeconds(async () => {
    model = await loadPhi3(files, dir, { backend, ...(asked && { linear: quantizedLinear(asked, { computeDtype }) }) });
  });
  return { model, seconds, close: () => backend.close() };
}

async function load(): Promise<object> {
  const { model, seconds, close } = await open();
  const { storeBytes, liveBytes } = model.backend.describe();
  await close();
  return { seconds, weightBytes: Number(storeBytes) + Number(liveBytes) };
}

/** Greedy tokens after a fixed prompt; the first carries the prompt and is counted apart. */
async function write(): Promise<object> {
  const { model, seconds, close } = await open();
  const { storeBytes, liveBytes } = model.backend.describe();
  if (values.adapter !== undefined) await loadAdapter(files, values.adapter, model);
  const prompt = Int32Array.from({ length: promptTokens }, (_, i) => 3 + ((i * 7919) % 30_000));
  const ids: number[] = [];
  const times: number[] = [];
  let before = performance.now();
  for await (const { id } of generate(model, prompt, { maxNewTokens: Number(values.tokens), stopTokenIds: [] })) {
    ids.push(id);
    times.push(performance.now() - before);
    before = performance.now();
  }
  const rest = times.slice(1);
  await close();
  return {
    loadSeconds: seconds,
    weightBytes: Number(storeBytes) + Number(liveBytes),
    ids,
    promptMs: times[0],
    tokensPerSecond: (rest.length * 1000) / rest.reduce((sum, ms) => sum + ms, 0),
    bestTokensPerSecond: 1000 / Math.min(...rest),
  };
}

const tasks: Readonly<Record<string, () => Promise<object>>> = { read, load, write };
const result = await tasks[positionals[0]!]!();
console.log(JSON.stringify({ ...result, peakBytes: peakOf('self') }));
