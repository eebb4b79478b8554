import { opSuite, propertySuite } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { parseSwitches } from './features.ts';
import { cpu } from './index.ts';

describe('cpu', () => {
  opSuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
  propertySuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
});

// Work memory is at least half full from the start, with 2 MiB of scratch a thread, so calls borrow copies instead of
// moving tensors there.
const threads = parseSwitches(process.env.LORIKEET_CPU ?? '').threads ?? 2;
describe('cpu with every tensor in the store', () => {
  opSuite(
    { describe, it, expect },
    { backend: () => cpu({ threads: 2, storeFromBytes: 1, memoryLimitBytes: Math.max(2, threads) * 2 ** 22 }) },
  );
});
