/** PyTorch, where a Python that imports it is found: LORIKEET_PYTHON, else python3. It times itself. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { OpenPeer } from '../peer.ts';
import { openProcessPeer } from '../process-peer.ts';

const program = fileURLToPath(new URL('../python/pytorch.py', import.meta.url));

/** Why PyTorch cannot be measured with this Python; null where it can. */
export function whyNoTorch(python: string): string | null {
  const { error, status, stderr } = spawnSync(python, ['-c', 'import torch'], { encoding: 'utf8' });
  if (error) return `${python} does not start (${error.message})`;
  return status === 0 ? null : `${python} does not import torch (${stderr.trim().split('\n').at(-1)})`;
}

/** Two peers a thread count: with f32 weights, and 'pytorch bf16' for products, whose numbers are all bf16. */
export const open: OpenPeer = async (threads) => {
  const python = process.env.LORIKEET_PYTHON ?? 'python3';
  const reason = whyNoTorch(python);
  if (reason !== null) {
    console.log(`PyTorch is left out: ${reason}. Name a Python that has it in LORIKEET_PYTHON.`);
    return [];
  }
  const opened = threads.flatMap((count) =>
    (['f32', 'bf16'] as const).map((dtype) =>
      openProcessPeer(dtype === 'f32' ? 'pytorch' : 'pytorch bf16', [python, '-B', program, dtype, String(count)]),
    ),
  );
  return Promise.all(opened);
};
