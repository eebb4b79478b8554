import { expect, test } from 'vitest';
import { parseSettings } from './settings.ts';

test('by default: ten rounds, every peer, every host', () => {
  expect(parseSettings([], ['a'])).toMatchObject({
    filter: '',
    rounds: 10,
    peers: null,
    hosts: ['cli', 'library', 'chromium'],
    tune: false,
  });
});

test('options', () => {
  const args = [
    '--filter',
    'matmul',
    '--rounds',
    '3',
    '--threads',
    '4,1',
    '--peers',
    'b',
    '--host',
    'cli',
    '--json',
    'f',
  ];
  expect(parseSettings(args, ['a', 'b'])).toEqual({
    filter: 'matmul',
    rounds: 3,
    threads: [1, 4],
    peers: ['b'],
    hosts: ['cli'],
    json: 'f',
    tune: false,
  });
  expect(parseSettings(['--no-peers'], ['a']).peers).toEqual([]);
  expect(parseSettings(['--tune', '--only', 'matmul'], []).tune).toBe(true);
});

test.each([
  [['--rounds', '0'], '--rounds must be a whole number of at least 1: got 0'],
  [['--threads', '1,x'], '--threads must be a whole number of at least 1: got x'],
  [['--peers', 'c'], '--peers must be of a, b: got c'],
  [['--host', 'firefox'], '--host must be of cli, library, chromium: got firefox'],
])('%j is refused', (args, message) => {
  expect(() => parseSettings(args, ['a', 'b'])).toThrow(message);
});
