import { noGrad } from '../autograd.ts';
import type { Backend, Call } from '../backend.ts';
import { scope } from '../scope.ts';
import { drawTensor } from './draw.ts';
import { testedOps } from './op-cases.ts';

/** How one backend computes one op: a kernel of its own, the op's reference run in place, or a composition of other ops. */
export type Coverage = 'kernel' | 'reference' | 'composed';

/** Tells whether a call that reached the backend ran the op's reference instead of a kernel. Default: never. */
export type RanReference = (call: Call) => boolean;

/** Runs every sample of every op and watches which calls reach the backend. An op that fails is not in the table: it throws. */
export function opTable(backend: Backend, ranReference: RanReference = () => false): Map<string, Coverage> {
  const table = new Map<string, Coverage>();
  for (const op of testedOps()) {
    const seen = new Set<Coverage>();
    const watched: Backend = Object.create(backend, {
      run: {
        value: (call: Call) => {
          if (call.op.name === op.name) seen.add(ranReference(call) ? 'reference' : 'kernel');
          backend.run(call);
        },
      },
      supports: { value: (call: Call) => backend.supports(call) },
      describe: { value: () => backend.describe() },
    }) as Backend;
    for (const method of ['allocate', 'free', 'write', 'read', 'sync', 'close'] as const)
      Object.defineProperty(watched, method, { value: (backend[method] as () => unknown).bind(backend) });
    for (const sample of op.samples)
      noGrad(() =>
        scope(() => {
          const inputs = Object.entries(sample.inputs).map(([n, input], i) => [n, drawTensor(input, 17 + i, watched)]);
          op.call(Object.fromEntries(inputs), sample.attributes ?? {});
        }),
      );
    // An op whose samples are all empty tensors would reach no backend; every op has a sample with elements.
    table.set(op.name, seen.has('reference') ? 'reference' : seen.has('kernel') ? 'kernel' : 'composed');
  }
  return table;
}
