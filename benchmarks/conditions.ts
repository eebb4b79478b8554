/** What may precede a call in a program: other data in the caches, other kernels in the pipelines. */
import { type CpuBackend, probes } from '@lorikeet/cpu';
import { openScope, scope, tensor } from '@lorikeet/tensor';
import { draw } from './data.ts';

const evictions = new WeakMap<CpuBackend, () => void>();

/** Copies 64 MiB to 64 MiB: nothing of a kernel's data is left in caches of one's own. */
export function evict(backend: CpuBackend): () => void {
  const made = evictions.get(backend) ?? probes(backend, { bytes: 64 * 2 ** 20 }).copies[1]!.run;
  evictions.set(backend, made);
  return made;
}

/** 500 small ops of several families. */
export function fiveHundredOps(backend: CpuBackend, defer: (free: () => void) => void): () => void {
  const held = openScope();
  defer(() => held[Symbol.dispose]());
  const [x, w] = held.run(() => {
    const square = (seed: number) => tensor(draw(64 * 64, seed, 0.1), { backend, shape: [64, 64] });
    return [square(1), square(2)];
  });
  return () =>
    scope(() => {
      for (let i = 0; i < 100; i++) x!.matmul(w!).add(x!).softmax(-1).sum([0]).exp();
    });
}
