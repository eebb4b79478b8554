import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { displayWidth, padToWidth, showControls, truncateToWidth, wrapToWidth } from './width.ts';

// Texts that mix scripts, so that borders between narrow and wide characters are met.
const mixed = fc
  .array(fc.constantFrom('a', ' ', '한', '語', 'é', 'e\u0301', '👩‍👧', '🇰🇷', '👍🏽', 'ｱ', '１', '한국어 ', 'word '), {
    maxLength: 20,
  })
  .map((parts) => parts.join(''));

describe('displayWidth', () => {
  test.each([
    ['', 0], ['abc', 3], ['한국어', 6], ['日本語', 6], ['１２', 4], ['ｱｲ', 2], ['é', 1], ['e\u0301', 1], ['👩‍👧', 2], ['🇰🇷', 2],
    ['👍🏽', 2], ['❤️', 2], ['العربية', 7], ['a\u200bb', 2], ['\u001b[1mab\u001b[0m', 2],
  ])('%s takes %i columns', (text, columns) => {
    expect(displayWidth(text)).toBe(columns);
  }); // biome-ignore format: a table

  test('joining at a space adds widths', () => {
    fc.assert(
      fc.property(mixed, mixed, (a, b) => {
        expect(displayWidth(`${a} ${b}`)).toBe(displayWidth(a) + 1 + displayWidth(b));
      }),
    );
  });
});

describe('padding, truncating, wrapping', () => {
  test('a padded text has the width asked for, or its own', () => {
    fc.assert(
      fc.property(mixed, fc.nat(40), (text, columns) => {
        expect(displayWidth(padToWidth(text, columns))).toBe(Math.max(columns, displayWidth(text)));
        expect(padToWidth(text, columns, 'right').endsWith(text)).toBe(true);
      }),
    );
  });

  test('a truncated text fits and is the beginning of the whole, in whole characters', () => {
    fc.assert(
      fc.property(mixed, fc.integer({ min: 1, max: 30 }), (text, columns) => {
        const cut = truncateToWidth(text, columns);
        expect(displayWidth(cut)).toBeLessThanOrEqual(columns);
        expect(cut.isWellFormed()).toBe(true);
        expect(text.startsWith(cut.replace(/…$/, ''))).toBe(true);
      }),
    );
  });

  test('wrapped lines fit and lose nothing but spaces', () => {
    fc.assert(
      fc.property(mixed, fc.integer({ min: 2, max: 30 }), (text, columns) => {
        const lines = wrapToWidth(text, columns);
        for (const line of lines) expect(displayWidth(line)).toBeLessThanOrEqual(columns);
        expect(lines.join('').replaceAll(' ', '')).toBe(text.replaceAll(' ', ''));
      }),
    );
  });
});

test('control characters are shown, whatever they would do', () => {
  expect(showControls('a\u001b[31mred\r\u0007\u009b2J')).toBe('a\\u001b[31mred\\u000d\\u0007\\u009b2J');
  expect(showControls('둘째\t줄\n🦜')).toBe('둘째\t줄\n🦜');
});
