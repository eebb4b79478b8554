/** The peers that the bench knows. */
import type { OpenPeer } from './peer.ts';

/** The names of `--peers` and how each is opened. Adapters are loaded when asked for. */
export const openers: Readonly<Record<string, () => Promise<{ readonly open: OpenPeer }>>> = {
  tfjs: () => import('./adapters/tfjs.ts'),
  'jax-js': () => import('./adapters/jax-js.ts'),
  onnxruntime: () => import('./adapters/onnxruntime.ts'),
  'gpu.js': () => import('./adapters/gpu-js.ts'),
  pytorch: () => import('./adapters/pytorch.ts'),
};
