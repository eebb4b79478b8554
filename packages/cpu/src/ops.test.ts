import { opSuite, propertySuite } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { cpu } from './index.ts';

describe('cpu', () => {
  opSuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
  propertySuite({ describe, it, expect }, { backend: () => cpu({ threads: 2 }) });
});
