import { opSuite } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { noAdapter, openBackend } from './testing/adapter.ts';

describe.skipIf(noAdapter)('webgpu', () => {
  opSuite({ describe, it, expect }, { backend: openBackend });
});
