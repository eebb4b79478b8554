import { opSuite } from '@lorikeet/tensor/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';

const vitest = { describe, it, afterAll };

describeOnAdapter(vitest, 'every op', () => {
  opSuite({ describe, it, expect }, { backend: sharedBackend(vitest) });
});
