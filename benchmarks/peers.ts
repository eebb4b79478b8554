/** Peers live in benchmarks/peers, outside the workspace: the first `pnpm bench` installs them, nothing else does. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('./peers', import.meta.url));

export interface GpuJs {
  readonly version: string;
  /** a [m, k] times w [n, k] transposed, as a gpu.js kernel. */
  product(
    mode: 'cpu' | 'webasm',
    m: number,
    k: number,
    n: number,
  ): (a: Float32Array, w: Float32Array) => Float32Array[];
}

interface GpuModule {
  GPU: new (options: {
    mode: string;
  }) => {
    createKernel(fn: unknown, options: object): (a: unknown, w: unknown) => Float32Array[];
  };
  input(data: Float32Array, size: number[]): unknown;
}

function install(): boolean {
  if (existsSync(`${folder}/node_modules/gpu.js/package.json`)) return true;
  console.log('installing benchmark peers (once) ...');
  const pnpm = process.env.npm_execpath?.includes('pnpm') ? [process.env.npm_execpath] : ['npx', '-y', 'pnpm@12.21.0'];
  const command = [...pnpm, 'install', '--ignore-scripts', '--frozen-lockfile', '--dir', folder];
  const result = spawnSync(command[0]!, command.slice(1), { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] });
  return result.status === 0;
}

/** gpu.js, or null with the reason printed. */
export function loadGpuJs(): GpuJs | null {
  if (!install()) {
    console.log('gpu.js is left out: it could not be installed.');
    return null;
  }
  const { GPU, input } = createRequire(`${folder}/package.json`)('gpu.js') as GpuModule;
  const { version } = JSON.parse(readFileSync(`${folder}/node_modules/gpu.js/package.json`, 'utf8')) as {
    version: string;
  };
  return {
    version,
    product(mode, m, k, n) {
      // gpu.js reads this function's source text, so it is given as text: a bundler or type stripper may not touch it.
      const source = `function (a, w) {
        let sum = 0;
        for (let i = 0; i < this.constants.k; i++) { sum += a[this.thread.y][i] * w[this.thread.x][i]; }
        return sum;
      }`;
      const kernel = new GPU({ mode }).createKernel(source, { output: [n, m], constants: { k }, loopMaxIterations: k });
      return (a, w) => kernel(input(a, [k, m]), input(w, [k, n]));
    },
  };
}
