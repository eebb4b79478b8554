import { type Call, memory, referenceBackend } from '@lorikeet/tensor';
import { afterAll, describe, expect, it } from 'vitest';
import { selfTest } from './self-test.ts';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';

const vitest = { describe, it, afterAll };

/** The reference with one op whose first result is wrong. */
function faulty(op: string) {
  const inner = referenceBackend();
  return {
    ...inner,
    run(call: Call): void {
      inner.run(call);
      if (call.op.name !== op) return;
      const { buffer, offset } = call.outputs[0]!;
      inner.write(buffer, offset * 4, new Uint8Array(Float32Array.of(0.123).buffer));
    },
  };
}

describe('self-test', () => {
  it('passes on the reference itself, and leaves nothing', async () => {
    const backend = referenceBackend();
    const results = await selfTest(backend);
    expect(results.filter((r) => !r.passed)).toEqual([]);
    expect(memory(backend).liveTensors).toBe(0);
  });
  it.each(['tanh', 'matmul', 'concat', 'gather'])('finds a backend whose %s is wrong', async (op) => {
    const failed = (await selfTest(faulty(op))).filter((r) => !r.passed).map((r) => r.kernel);
    expect(failed).toContain(op);
  });
  it('reports a backend that throws as an error of each kernel', async () => {
    const inner = referenceBackend();
    const broken = {
      ...inner,
      run: () => {
        throw new Error('no device');
      },
    };
    const results = await selfTest(broken);
    expect(results.every((r) => !r.passed && r.error === 'no device')).toBe(true);
  });
});

describeOnAdapter(vitest, 'self-test on this adapter', () => {
  const open = sharedBackend(vitest);
  it('passes', async () => {
    expect((await selfTest(await open())).filter((r) => !r.passed)).toEqual([]);
  });
});
