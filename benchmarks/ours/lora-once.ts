/** `node lora-once.ts FOLDER THREADS`: a LoRA work's three steps in a process of their own; prints losses, seconds, peak memory. */
import { cpu } from '@lorikeet/cpu';
import { peakOf } from '../full-size/measured-process.ts';
import type { LoraStepSpec } from '../peer.ts';
import { readWork } from '../work-files.ts';
import { loraSteps } from './steps.ts';

const [folder, threads] = process.argv.slice(2);
await using backend = await cpu({ revectorize: 'auto', threads: Number(threads) });
const { step, dispose } = await loraSteps(readWork(folder!) as LoraStepSpec, backend);
const losses: number[] = [];
const seconds: number[] = [];
for (let i = 0; i < 3; i++) {
  const start = performance.now();
  losses.push(await step());
  seconds.push((performance.now() - start) / 1000);
}
console.log(JSON.stringify({ losses, seconds, peakBytes: peakOf('self') }));
dispose();
