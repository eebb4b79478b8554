import { type Backend, memory, referenceBackend, scope, type Tensor } from '@lorikeet/tensor';
import { expectClose, type Tolerance } from '@lorikeet/tensor/testing';

/** Runs the same computation on a backend and on the reference, compares values, shape and dtype, and checks that nothing leaks. */
export async function againstReference(
  backend: Backend,
  compute: (backend: Backend) => Tensor,
  tolerance: Tolerance = { relative: 0, absolute: 0 },
): Promise<void> {
  const before = memory(backend).liveTensors;
  const [got, want] = [scope(() => compute(backend)), scope(() => compute(referenceBackend()))];
  if (`${got.dtype} ${got.shape}` !== `${want.dtype} ${want.shape}`) throw new Error(`got ${got}, expected ${want}`);
  expectClose(await got.data(), await want.data(), tolerance, 'against the reference');
  got.dispose();
  want.dispose();
  const left = memory(backend).liveTensors - before;
  if (left !== 0) throw new Error(`${left} tensors were left behind`);
}
