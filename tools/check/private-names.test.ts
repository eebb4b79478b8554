import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { checkPrivateNames, machinePathsOf } from './private-names.ts';
import { workspaceOf } from './workspace.ts';

const found = (text: string, machinePaths: string[] = []) =>
  checkPrivateNames(workspaceOf({ 'a.md': text }), machinePaths).problems;

// Joined at run time, so that this file is not found itself.
test.each([
  ['a registry', ['https://registry.', 'npm', 'js.org/x'].join('')],
  ['a mirror of a distribution', ['http://deb.', 'debian', '.org/'].join('')],
  ['a home folder', ['see /ho', 'me/alice/models'].join('')],
  ['the home folder of the administrator', ['"/ro', 'ot/x"'].join('')],
  ['a home folder on Windows', ['C:', 'Us', 'ers', 'bob'].join('\\').replace('Us\\ers', 'Users')],
])('%s is found', (_, text) => {
  expect(found(`first\n${text}`)).toEqual([expect.objectContaining({ path: 'a.md', line: 2 })]);
});

test('the checkout and its neighbours are found, longer names are not', () => {
  expect(found('cd /build/house && ls', ['/build/house'])).toHaveLength(1);
  expect(found('cd /build/household; ls /x/build/house', ['/build/house'])).toEqual([]);
});

test('relative paths and web addresses are allowed', () => {
  expect(found('../shared/data https://example.com/home/alice/ $HOME/x /usr/share/vulkan /tmp/x')).toEqual([]);
});

test('what lies beside the checkout is part of the machine', () => {
  const parent = mkdtempSync(join(tmpdir(), 'lorikeet-check-'));
  try {
    for (const name of ['house', 'garden']) mkdirSync(join(parent, name));
    const paths = machinePathsOf(join(parent, 'house'));
    expect(paths).toEqual(expect.arrayContaining([join(parent, 'house'), join(parent, 'garden')]));
    expect(machinePathsOf(parent)).not.toContain(tmpdir());
  } finally {
    rmSync(parent, { recursive: true });
  }
});
