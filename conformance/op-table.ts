/** Which op each backend computes with a kernel of its own, with the op's reference run in place, or as a composition. */
import type { Backend, Call } from '@lorikeet/tensor';
import { type Coverage, opTable, type RanReference } from '@lorikeet/tensor/testing';
import { type BackendName, openBackend } from './backends.ts';

/** Op by backend; a backend that cannot be opened here is left out. */
export type OpTable = ReadonlyMap<BackendName, ReadonlyMap<string, Coverage>>;

const always: RanReference = () => true;
/** The cpu and gpujs backends run a primitive without a kernel with its reference. */
const withoutKernel =
  ({ kernelNames }: { readonly kernelNames: readonly string[] }): RanReference =>
  (call: Call) =>
    !call.program && !kernelNames.includes(call.op.name);

function ranReferenceOn(name: BackendName, backend: Backend): RanReference | undefined {
  if (name === 'reference' || name === 'hostile') return always;
  return 'kernelNames' in backend ? withoutKernel(backend as unknown as { kernelNames: readonly string[] }) : undefined;
}

/** Runs every op's samples on each backend that this machine has. */
export async function makeOpTable(names: readonly BackendName[]): Promise<OpTable> {
  const table = new Map<BackendName, ReadonlyMap<string, Coverage>>();
  for (const name of names) {
    const opened = await openBackend(name);
    if ('reason' in opened) continue;
    const { backend } = opened;
    try {
      table.set(name, opTable(backend, ranReferenceOn(name, backend)));
      await backend.sync();
    } finally {
      await backend.close();
    }
  }
  return table;
}

/** One line an op, one column a backend, and a count below. */
export function opTableLines(table: OpTable): string[] {
  const backends = [...table.keys()];
  const ops = [...new Set(backends.flatMap((b) => [...table.get(b)!.keys()]))];
  const width = Math.max(0, ...ops.map((op) => op.length));
  const line = (op: string, cells: readonly string[]): string =>
    [op.padEnd(width), ...cells.map((cell) => cell.padEnd('reference'.length))].join('  ').trimEnd();
  const kernels = backends.map((b) => [...table.get(b)!.values()].filter((c) => c === 'kernel').length);
  return [
    line('op', backends),
    ...ops.map((op) =>
      line(
        op,
        backends.map((b) => table.get(b)!.get(op) ?? '-'),
      ),
    ),
    line(
      'kernels',
      kernels.map((n) => `${n} of ${ops.length}`),
    ),
  ];
}
