import { afterEach, expect, test, vi } from 'vitest';
import { open, whyNoTorch } from './pytorch.ts';

afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

test('a Python that is not there, or has no torch, is named', () => {
  expect(whyNoTorch('/nowhere/python')).toMatch(/\/nowhere\/python does not start \(.*ENOENT/);
  // Node refuses `-c 'import torch'` too: there is no such file to check.
  expect(whyNoTorch(process.execPath)).toContain('does not import torch');
});

test('without PyTorch the bench goes on and says why', async () => {
  vi.stubEnv('LORIKEET_PYTHON', '/nowhere/python');
  const log = vi.spyOn(console, 'log').mockImplementation(() => {});
  expect(await open([1, 2])).toEqual([]);
  expect(log.mock.calls.flat().join('\n')).toMatch(/PyTorch is left out: \/nowhere\/python does not start/);
});
