import { expect, it } from 'vitest';
import {
  type Backend,
  checkpoint,
  dryRunBackend,
  linearCrossEntropy,
  memory,
  ones,
  referenceBackend,
  scope,
  zeros,
} from './index.ts';
import { hostileBackend } from './testing/index.ts';

/** Peak bytes of a small step on a backend, and the gradient of its weight. */
function step(backend: Backend) {
  const w = ones([32, 16], { backend, requiresGrad: true });
  const x = zeros([8, 16], { backend });
  const use = memory(backend);
  use.peakBytes = use.liveBytes;
  const gradients = scope(() => {
    const hidden = checkpoint(
      (t) =>
        t
          .add(1)
          .rmsNorm(w.slice(0, 0, 1).reshape([16]), 1e-5)
          .softmax(),
      x,
    );
    return linearCrossEntropy(hidden, w, [1, 2, 3, -100, 5, 6, 7, 31], { chunkRows: 3 }).backward();
  });
  return { peakBytes: use.peakBytes, gradient: gradients.of(w) };
}

it.each([
  ['reference', referenceBackend],
  ['hostile', hostileBackend],
])('a dry run holds the bytes that the %s backend holds, and its values are 0', async (_name, make) => {
  const real = step(make());
  const dry = step(dryRunBackend(make()));
  expect(dry.peakBytes).toBe(real.peakBytes);
  expect(dry.peakBytes).toBeGreaterThan(0);
  expect([dry.gradient.shape, dry.gradient.dtype]).toEqual([real.gradient.shape, real.gradient.dtype]);
  expect(new Set(await dry.gradient.data())).toEqual(new Set([0]));
  expect(new Set(await real.gradient.data()).size).toBeGreaterThan(1);
});

it('zeros of any size need no bytes of the host, and are zeros', async () => {
  const large = zeros([1 << 20, 1 << 14], { backend: dryRunBackend(referenceBackend()) });
  expect(large.size).toBe(2 ** 34);
  const written: number[] = [];
  const real = referenceBackend();
  const noted: Backend = {
    ...real,
    write: (buffer, offset, bytes) => {
      written.push(bytes.length);
      real.write(buffer, offset, bytes);
    },
    allocate: (n) => real.allocate(n),
    free: (b) => real.free(b),
    read: (...all) => real.read(...all),
    sync: () => real.sync(),
  };
  using halves = zeros([(1 << 25) + 5], { backend: noted, dtype: 'f16' });
  expect(written).toEqual([2 ** 26, 10]);
  expect((await halves.bytes()).every((byte) => byte === 0)).toBe(true);
});
