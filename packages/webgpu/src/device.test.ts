import { DeviceLostError, OutOfMemoryError, scope, tensor, zeros } from '@lorikeet/tensor';
import { afterAll, describe, expect, it } from 'vitest';
import { acquire } from './acquire.ts';
import { Bindings } from './bindings.ts';
import { type PoolUse, sizeClass } from './buffer-pool.ts';
import { KernelError } from './faults.ts';
import { WebGpuUnavailableError, webgpu } from './index.ts';
import { Stream } from './stream.ts';
import { describeOnAdapter, openBackend, sharedBackend } from './testing/adapter.ts';
import { Uniforms } from './uniforms.ts';

const vitest = { describe, it, afterAll };

it('size classes hold what is asked and waste an eighth at most', () => {
  for (let bytes = 1; bytes < 2 ** 31; bytes = Math.ceil(bytes * 1.07)) {
    expect(sizeClass(bytes)).toBeGreaterThanOrEqual(bytes);
    expect(sizeClass(bytes)).toBeLessThanOrEqual(Math.max(bytes * 1.125 + 256, 256));
    expect(sizeClass(bytes) % 4).toBe(0);
  }
});

it('says what to install when there is no adapter', async () => {
  const opened = webgpu({ dawnFlags: ['adapter=no-such-adapter'] });
  await expect(opened).rejects.toThrow(WebGpuUnavailableError);
  await expect(opened).rejects.toThrow(/no adapter was found.*Vulkan driver.*mesa-vulkan-drivers/s);
});

describeOnAdapter(vitest, 'a device', () => {
  const open = sharedBackend(vitest);

  it('that is lost rejects pending reads and refuses later calls by name', async () => {
    const backend = await openBackend();
    const x = tensor([1, 2, 3], { backend });
    const pending = x.add(1).data();
    const early = expect(pending).rejects.toThrow(DeviceLostError);
    backend.device.destroy();
    await early;
    await expect(x.data()).rejects.toThrow(DeviceLostError);
    await expect(backend.sync()).rejects.toThrow('the device was lost');
    expect(() => x.add(1)).toThrow(DeviceLostError);
    expect(() => zeros([4], { backend })).toThrow('webgpu()');
  });

  it('that was closed says so', async () => {
    const backend = await webgpu();
    const x = tensor([1, 2, 3], { backend });
    await backend.close();
    await expect(x.data()).rejects.toThrow('was closed');
    x.dispose();
  });

  it('names the limit that a tensor exceeds, and goes on', async () => {
    const backend = await open();
    const { maxTensorBytes } = backend.describe() as { maxTensorBytes: number };
    expect(() => backend.allocate(maxTensorBytes + 4)).toThrow(OutOfMemoryError);
    expect(() => backend.allocate(maxTensorBytes + 4)).toThrow(/maxStorageBufferBindingSize|maxBufferSize/);
    const x = tensor([1, 2], { backend });
    expect(await x.add(1).toArray()).toEqual([2, 3]);
  });

  it('reports a kernel that does not compile by its name, once', async () => {
    const { device } = await acquire({});
    const stream = new Stream(device, false);
    const source = () => '@compute @workgroup_size(1) fn main() { let x: f32 = 1u; }';
    const parts = { bindings: new Bindings(), uniforms: new Uniforms(), workgroups: 1, work: 1 };
    stream.dispatch({ kernel: 'broken', key: 'broken', source, ...parts });
    stream.submit();
    const settled = stream.faults.settle();
    await expect(settled).rejects.toThrow(KernelError);
    await expect(settled).rejects.toThrow(/kernel broken does not compile.*f32/s);
    await stream.faults.settle();
    device.destroy();
  });

  it('submits seldom', async () => {
    const backend = await open();
    const submits = (): number => backend.describe().submits as number;
    using x = tensor(new Float32Array(100), { backend });
    const before = submits();
    let y = x.add(1);
    for (let i = 0; i < 99; i++) {
      const next = y.add(1);
      y.dispose();
      y = next;
    }
    expect(await y.slice(0, 0, 1).item()).toBe(100);
    expect(submits() - before).toBeLessThan(5);
    y.dispose();
  });

  it('reuses the memory of freed tensors, in order', async () => {
    const backend = await open();
    const use = (): PoolUse => backend.describe() as unknown as PoolUse;
    const before = use();
    const sums: Promise<number>[] = [];
    for (let i = 0; i < 50; i++) {
      using total = scope(() => tensor(new Float32Array(1000).fill(i), { backend }).mul(2).sum());
      sums.push(total.item());
    }
    expect(await Promise.all(sums)).toEqual(Array.from({ length: 50 }, (_, i) => i * 2000));
    expect(use().liveBuffers).toBe(before.liveBuffers);
    expect(use().pooledBytes).toBeLessThan(before.pooledBytes + 50_000);
  });

  it('writes and reads any range of bytes', async () => {
    const backend = await open();
    const buffer = backend.allocate(23);
    const want = Uint8Array.from({ length: 23 }, (_, i) => i + 1);
    backend.write(buffer, 0, want);
    for (const [at, bytes] of [
      [1, [91]],
      [6, [81, 82, 83, 84, 85]],
      [20, [71, 72, 73]],
      [8, [61, 62, 63, 64]],
    ] as const) {
      backend.write(buffer, at, Uint8Array.from(bytes));
      want.set(bytes, at);
    }
    expect(await backend.read(buffer, 0, 23)).toEqual(want);
    expect(await backend.read(buffer, 5, 9)).toEqual(want.subarray(5, 14));
    expect(await backend.read(buffer, 22, 1)).toEqual(want.subarray(22));
    expect(await backend.read(buffer, 23, 0)).toEqual(new Uint8Array(0));
    expect(() => backend.write(buffer, 20, new Uint8Array(4))).toThrow('must lie in a buffer of 23');
    backend.free(buffer);
  });

  it('runs more workgroups than one dimension holds', async () => {
    const backend = await open();
    const count = 65536 * 64 + 77;
    const values = Float32Array.from({ length: count }, (_, i) => i % 1000);
    const sum = scope(() => tensor(values, { backend }).add(0.5));
    const got = (await sum.data()) as Float32Array;
    expect(got.findIndex((x, i) => x !== (i % 1000) + 0.5)).toBe(-1);
    sum.dispose();
    const product = scope(() =>
      tensor(values.subarray(0, 70000), { backend })
        .reshape([70000, 1, 1])
        .matmul(tensor([[2]], { backend })),
    );
    expect((await product.data()).findIndex((x, i) => x !== (i % 1000) * 2)).toBe(-1);
    product.dispose();
  });
});
