import { opSuite } from '@lorikeet/tensor/testing';
import { describe, expect, it } from 'vitest';
import { describeOnAdapter, sharedBackend } from './testing/adapter.ts';

describeOnAdapter('every op', () => {
  opSuite({ describe, it, expect }, { backend: sharedBackend() });
});
