import { posix } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { baseName, joinPath, parentPath, safeRelativePath } from './paths.ts';

describe('paths', () => {
  test('join, parent and base', () => {
    expect(joinPath('', 'a')).toBe('a');
    expect(joinPath('a', '')).toBe('a');
    expect(joinPath('a/', '/b', 'c')).toBe('a/b/c');
    expect(joinPath('/', 'a')).toBe('/a');
    expect(joinPath('/a', 'b/')).toBe('/a/b/');
    for (const [path, parent, base] of [
      ['a', '.', 'a'],
      ['a/b', 'a', 'b'],
      ['/a', '/', 'a'],
      ['a/b/', 'a', 'b'],
      ['/x/y z', '/x', 'y z'],
    ] as const) {
      expect([parentPath(path), baseName(path)]).toEqual([parent, base]);
      expect(parent).toBe(posix.dirname(path));
    }
  });

  test.each([
    'model.safetensors',
    'a/b c/d-1_2.json',
    '日本語/🦜.txt',
    '100%.txt',
    'a%20b',
    '.hidden',
    'console.txt',
    'n'.repeat(255),
  ])('takes %j', (name) => {
    expect(safeRelativePath(name)).toBe(name);
  });

  test.each([
    ['', 'empty'],
    ['../x', '".."'],
    ['a/../../x', '".."'],
    ['a/./b', '"."'],
    ['a//b', 'empty part'],
    ['a/', 'empty part'],
    ['/etc/passwd', 'absolute'],
    ['%2e%2e/x', '".."'],
    ['%2E%2e%2Fx', '".."'],
    ['%252e%252e%252fx', '".."'],
    ['%252525252e%252525252e/x', '".."'],
    ['..\\x', 'backslash'],
    ['%5cx', 'backslash'],
    ['C:\\x', 'backslash'],
    ['C:x', 'colon'],
    ['http://x', 'colon'],
    ['a\u0000b', 'control'],
    ['a%00b', 'control'],
    ['a\nb', 'control'],
    ['CON', 'reserved'],
    ['sub/nul.txt', 'reserved'],
    ['LPT1.safetensors', 'reserved'],
    ['a./b', 'dot or a space'],
    ['a ', 'dot or a space'],
    ['é'.repeat(128), '255 bytes'],
    ['\ud800', 'Unicode'],
  ])('refuses %j', (name, why) => {
    expect(() => safeRelativePath(name)).toThrow(why);
  });

  test('what is taken stays below the directory, decoded or not', () => {
    const part = fc.oneof(
      fc.constantFrom('..', '.', '', '%2e', '%2e%2e', '%252e', '%2f', '%5c', '/', '\\', 'a', 'C:', '%25'),
      fc.string({ maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), fc.constantFrom('', '/'), (parts, separator) => {
        const name = parts.join(separator);
        try {
          safeRelativePath(name);
        } catch {
          return;
        }
        let form = name;
        for (let i = 0; i < 6; i++) {
          expect(posix.resolve('/model', form).startsWith('/model/')).toBe(true);
          const next = form.replace(/%([0-7][0-9a-f])/gi, (_, hex: string) =>
            String.fromCharCode(Number.parseInt(hex, 16)),
          );
          if (next === form) break;
          form = next;
        }
      }),
      { numRuns: 5000 },
    );
  });
});
