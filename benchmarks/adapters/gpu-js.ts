/** gpu.js in its two modes without a GPU: plain JavaScript and WebAssembly. Under 2 GFLOP/s, so it takes the first rows of a product. */
import { answer } from '../answer.ts';
import type { MatmulSpec, OpenPeer, PeerWork } from '../peer.ts';
import { loadPeer, openNodePeers } from '../peer-install.ts';

interface GpuModule {
  GPU: new (options: {
    mode: string;
  }) => {
    createKernel(fn: unknown, options: object): (a: unknown, w: unknown) => Float32Array[];
  };
  input(data: Float32Array, size: number[]): unknown;
}

const mostRows = 4;

function product({ GPU, input }: GpuModule, mode: string, { m, k, n, a, b }: MatmulSpec): PeerWork {
  const rows = Math.min(m, mostRows);
  // gpu.js reads this function's source text, so it is given as text: a bundler or type stripper may not touch it.
  const source = `function (a, w) {
    let sum = 0;
    for (let i = 0; i < this.constants.k; i++) { sum += a[this.thread.y][i] * w[this.thread.x][i]; }
    return sum;
  }`;
  const kernel = new GPU({ mode }).createKernel(source, { output: [n, rows], constants: { k }, loopMaxIterations: k });
  const few = a.subarray(0, rows * k);
  let turn = 0;
  const call = (w: Float32Array): Float32Array[] => kernel(input(few, [k, rows]), input(w, [k, n]));
  return {
    part: rows / m,
    run: () => call(b[turn++ % b.length]!),
    async result() {
      const flat = new Float32Array(rows * n);
      for (const [i, row] of call(b[0]!).entries()) flat.set(row, i * n);
      return [flat];
    },
    dispose: () => {},
  };
}

const peer = { folder: 'gpu-js', name: 'gpu.js' };
const modes = ['cpu', 'webasm'];

export const open: OpenPeer = () =>
  openNodePeers(
    peer,
    import.meta.url,
    modes.map((mode) => ({ name: `gpu.js ${mode}`, threads: 1 })),
  );

if (import.meta.main) {
  const mode = modes.find((name) => process.argv[2]!.endsWith(name))!;
  const { require, version } = loadPeer(peer);
  const gpu = require(peer.name) as GpuModule;
  await answer({ version, threads: 1 }, async (spec) =>
    spec.op === 'matmul' && spec.batch === 1 && spec.transposeB && !spec.transposeA ? product(gpu, mode, spec) : null,
  );
  process.exit();
}
