import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { type Leak, referenceBackend, reportLeaks, scope, tensor } from './index.ts';

it('reports a dropped tensor with the place that made it, and no disposed one', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const leaks: Leak[] = [];
  reportLeaks((leak) => leaks.push(leak));
  const backend = referenceBackend();
  (function forgetful() {
    tensor([1, 2, 3], { backend });
    tensor([4], { backend }).dispose();
    scope(() => void tensor([5, 6], { backend }));
  })();
  for (let i = 0; i < 50 && leaks.length === 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    collect();
  }
  reportLeaks(null);
  expect(leaks.map((l) => l.shape)).toEqual([[3]]);
  expect(leaks[0]!.stack).toContain('forgetful');
});
