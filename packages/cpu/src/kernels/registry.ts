/** Which op has which kernel here. Ops that are absent run as their reference or as their composition. */
import type { Kernel, KernelHost } from '../kernel.ts';
import { attentionKernels } from './attention-kernel.ts';
import { blockwiseKernels } from './blockwise-kernels.ts';
import { copyKernels } from './copy-kernels.ts';
import { indexKernels } from './index-kernels.ts';
import { MapTables } from './map-tables.ts';
import { matmul4bitKernel } from './matmul-4bit-kernel.ts';
import { matmul8bitKernels } from './matmul-8bit-kernel.ts';
import { matmulKernel } from './matmul-kernel.ts';
import { pairedTile, plainTile, type Tile } from './micro.ts';
import { optimizer8bitKernels } from './optimizer-8bit-kernels.ts';
import { quantize4bitKernels } from './quantize-4bit-kernel.ts';
import { reduceKernels } from './reduce-kernels.ts';
import { ropeKernel } from './rope.ts';
import { rowKernels } from './row-kernels.ts';

export function makeKernels(host: KernelHost, tile: Tile): Map<string, Kernel> {
  const matmul = matmulKernel(host, tile);
  const tables = new MapTables(host.team);
  const reduce = reduceKernels(host);
  return new Map<string, Kernel>(
    Object.entries({
      matmul,
      matmul4bit: matmul4bitKernel(host, matmul.multiply),
      ...matmul8bitKernels(host),
      ...quantize4bitKernels(host),
      ...blockwiseKernels(host, tables),
      ...optimizer8bitKernels(host, tables),
      ...copyKernels(host),
      ...indexKernels(host),
      ...reduce,
      ...rowKernels(host, reduce.sum!),
      rope: ropeKernel(host),
      ...attentionKernels(host, host.features.revectorize ? pairedTile : plainTile),
    }),
  );
}
