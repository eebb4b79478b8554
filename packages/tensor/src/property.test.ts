import { describe, expect, it } from 'vitest';
import { referenceBackend } from './index.ts';
import { hostileBackend, propertySuite } from './testing/index.ts';

describe('reference backend', () =>
  propertySuite({ describe, it, expect }, { backend: async () => referenceBackend() }));
describe('hostile backend', () =>
  propertySuite({ describe, it, expect }, { backend: async () => hostileBackend(), runs: 12 }));
