/** transformers + PEFT where a Python that imports them is found: LORIKEET_PYTHON, else python3. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Peer } from '../peer.ts';
import { openProcessPeer } from '../process-peer.ts';

export interface TransformersSetting {
  /** As in the table. */
  readonly name: string;
  readonly dtype: 'f32' | 'bf16';
  /** Padded to the longest row, or laid out as one row (padding-free). */
  readonly rows: 'padded' | 'packed';
  /** oneDNN's newest instructions; absent: all of the machine's, AMX included. */
  readonly isa?: 'AVX512_CORE' | 'AVX2';
}

const program = fileURLToPath(new URL('./peft_peer.py', import.meta.url));

/** How PyTorch users can have it. On a processor with AMX, bf16 products run on matrix units that no WebAssembly reaches. */
export const trainingSettings: readonly TransformersSetting[] = [
  { name: 'PEFT f32', dtype: 'f32', rows: 'padded' },
  { name: 'PEFT f32 packed', dtype: 'f32', rows: 'packed' },
  { name: 'PEFT bf16', dtype: 'bf16', rows: 'padded' },
  { name: 'PEFT bf16 packed', dtype: 'bf16', rows: 'packed' },
  { name: 'PEFT bf16 without AMX', dtype: 'bf16', rows: 'padded', isa: 'AVX512_CORE' },
];

export const pythonOf = (): string => process.env.LORIKEET_PYTHON ?? 'python3';

/** Whether transformers and PEFT can be measured; says why not, once. */
export function hasTransformers(): boolean {
  return (answer ??= ask());
}
let answer: boolean | undefined;
function ask(): boolean {
  const python = pythonOf();
  const { error, status, stderr } = spawnSync(python, ['-c', 'import torch, transformers, peft'], { encoding: 'utf8' });
  if (!error && status === 0) return true;
  const why = error ? error.message : stderr.trim().split('\n').at(-1);
  console.log(`transformers and PEFT are left out: ${python}: ${why}. Name a Python that has them in LORIKEET_PYTHON.`);
  return false;
}

export const envOf = ({ isa }: TransformersSetting): Record<string, string> => (isa ? { ONEDNN_MAX_CPU_ISA: isa } : {});

export const argumentsOf = ({ dtype, rows }: TransformersSetting, threads: number): string[] => [
  '--dtype', dtype, '--rows', rows, '--threads', `${threads}`,
]; // biome-ignore format: a command line

export const onceCommand = (setting: TransformersSetting, folder: string, threads: number): string[] => [
  pythonOf(), program, 'once', folder, ...argumentsOf(setting, threads),
]; // biome-ignore format: a command line

export const openTransformers = (setting: TransformersSetting, threads: number): Promise<Peer> =>
  openProcessPeer(setting.name, [pythonOf(), program, 'serve', ...argumentsOf(setting, threads)], envOf(setting));
