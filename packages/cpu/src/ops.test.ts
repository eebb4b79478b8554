import { opSuite, propertySuite } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { cpu } from './index.ts';

describe('cpu', () => {
  opSuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
  propertySuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
});

// Work memory is more than half full from the start, so calls borrow copies instead of moving tensors there.
describe('cpu with every tensor in the store', () => {
  opSuite(
    { describe, it, expect },
    { backend: () => cpu({ threads: 2, storeFromBytes: 1, memoryLimitBytes: 2 ** 23 }) },
  );
});
