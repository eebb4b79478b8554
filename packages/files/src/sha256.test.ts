import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytesToHex } from './bytes.ts';
import { memoryFiles } from './memory-files.ts';
import { hashFile, portableSha256, sha256, sha256Hex } from './sha256.ts';

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);
// FIPS 180-4 examples (NIST CSRC) and the empty message.
const vectors: [string, Uint8Array, string][] = [
  ['nothing', ascii(''), 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'],
  ['abc', ascii('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
  [
    'two blocks',
    ascii('abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq'),
    '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1',
  ],
  ['a million a', new Uint8Array(1e6).fill(0x61), 'cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0'],
];

describe('sha256', () => {
  test.each(vectors)('known vector: %s', (_name, message, digest) => {
    expect(sha256Hex(message)).toBe(digest);
    expect(bytesToHex(portableSha256().update(message).digest())).toBe(digest);
  });

  test('both agree, however the input is cut', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }), (chunks) => {
        const [native, portable] = [sha256(), portableSha256()];
        for (const chunk of chunks) {
          native.update(chunk);
          portable.update(chunk);
        }
        expect(portable.digest()).toEqual(native.digest());
      }),
    );
  });

  test('every length around the block border', () => {
    for (let length = 0; length < 200; length++) {
      const message = Uint8Array.from({ length }, (_, i) => i * 7);
      expect(bytesToHex(portableSha256().update(message).digest())).toBe(sha256Hex(message));
    }
  });

  test('a file longer than a read', async () => {
    const files = memoryFiles();
    const content = Uint8Array.from({ length: (4 << 20) + 5 }, (_, i) => i * 31);
    await files.append('a', content);
    expect(await hashFile(files, 'a')).toBe(sha256Hex(content));
  });
});
