import type { Backend, Call } from '@lorikeet/tensor';
import { afterAll, expect, test } from 'vitest';
import { cpu } from './index.ts';
import { kernelOps, selfTest } from './self-test.ts';

const backend = await cpu({ threads: 1 });
afterAll(() => backend.close());

/** The backend with one op's results damaged after it ran. */
function damaged(name: string, damage: (bytes: Float32Array) => void): Backend {
  return new Proxy(backend, {
    get(target, key) {
      if (key === 'run')
        return (call: Call) => {
          target.run(call);
          if (call.op.name !== name) return;
          const { address, byteLength } = call.outputs[0]!.buffer as { address: number; byteLength: number };
          damage(new Float32Array(target.team.memory.bytes.buffer, address, byteLength / 4));
        };
      const value = Reflect.get(target, key, target) as unknown;
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

test('every kernel that this backend has is compared, and none is switched off here', async () => {
  // A wrong kernel would be replaced by its reference, and all other tests would pass.
  expect(backend.describe().switchedOff).toEqual([]);
  expect(await selfTest(backend, backend.kernelNames)).toEqual([]);
  const known = new Set(kernelOps.map((op) => op.name));
  for (const name of backend.kernelNames) expect(known).toContain(name);
  for (const name of backend.kernelNames)
    expect(
      await selfTest(
        damaged(name, (x) => x.fill(77)),
        [name],
      ),
      name,
    ).toEqual([name]);
});

test('a small error in one element and NaN are found, in elementwise programs too', async () => {
  const nudge = (x: Float32Array) => {
    x[0]! += 0.01;
  };
  expect(await selfTest(damaged('softmax', nudge), ['softmax', 'sum'])).toEqual(['softmax']);
  expect(await selfTest(damaged('exp', nudge), [])).toEqual(['elementwise']);
  expect(
    await selfTest(
      damaged('matmul', (x) => x.fill(Number.NaN)),
      ['matmul'],
    ),
  ).toEqual(['matmul']);
});
