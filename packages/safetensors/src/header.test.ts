import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bitsOf, fromFormatDtype, toFormatDtype } from './dtypes.ts';
import { SafetensorsError } from './errors.ts';
import { parseHeader } from './header.ts';
import { handMade, headerOf, member } from './testing/hand-made.ts';

const parse = (file: Uint8Array) => parseHeader(file, file.length, 'w.safetensors');
function problem(file: Uint8Array): SafetensorsError {
  try {
    parse(file);
  } catch (error) {
    expect(error).toBeInstanceOf(SafetensorsError);
    expect((error as Error).message).toMatch(/^w\.safetensors: /);
    return error as SafetensorsError;
  }
  throw new Error('was accepted');
}

describe('what is accepted', () => {
  test('tensors in the order of their bytes, scalars, empty tensors and metadata', () => {
    const header = headerOf(
      '"__metadata__":{"format":"pt","":"empty key"}',
      member('b', 'F32', '2,1', '2,10'),
      member('a', 'U8', '2', '0,2'),
      member('scalar', 'BF16', '', '10,12'),
      member('none', 'F16', '0,5', '12,12'),
    );
    const { entries, metadata, dataOffset } = parse(handMade(header, 12));
    expect([...entries.keys()]).toEqual(['a', 'b', 'scalar', 'none']);
    expect(entries.get('b')).toEqual({
      name: 'b',
      dtype: 'f32',
      formatDtype: 'F32',
      shape: [2, 1],
      byteLength: 8,
      byteOffset: dataOffset + 2,
      path: 'w.safetensors',
    });
    expect([...metadata]).toEqual([
      ['format', 'pt'],
      ['', 'empty key'],
    ]);
  });

  test('an empty file, spaces around and after, null metadata, unknown fields', () => {
    expect(parse(handMade('{}')).entries.size).toBe(0);
    expect(parse(handMade(' \n\t\r{ } \n')).entries.size).toBe(0);
    expect(parse(handMade('{"__metadata__":null}')).metadata.size).toBe(0);
    const extra = '{"a":{"note":[1.5e3,"x",null,true],"dtype":"U8","shape":[1],"data_offsets":[0,1]}}';
    expect(parse(handMade(extra, 1)).entries.size).toBe(1);
  });

  test('a file whose text continues after the header is only read up to it', () => {
    const file = handMade(headerOf(member('a', 'U8', '1', '0,1')), 1);
    expect(parseHeader(file.subarray(0, file.length - 1), file.length).entries.size).toBe(1);
  });

  test('row 4: unsorted but contiguous offsets, as the Rust library does', () => {
    const file = handMade(headerOf(member('b', 'U8', '4', '4,8'), member('a', 'U8', '4', '0,4')), 8);
    expect([...parse(file).entries.keys()]).toEqual(['a', 'b']);
  });

  test('row 8: names that mean something to JavaScript are plain keys', () => {
    const names = ['__proto__', 'constructor', '', 'toString', 'hasOwnProperty', '🦜"\\\u0001', 'x'.repeat(1024)];
    const header = headerOf(...names.map((name, i) => member(name, 'U8', '1', `${i},${i + 1}`)));
    const { entries } = parse(handMade(header, names.length));
    expect([...entries.keys()]).toEqual(names);
    expect(entries.get('__proto__')?.byteLength).toBe(1);
    expect(({} as Record<string, unknown>).dtype).toBeUndefined();
  });

  test('row 9: dtypes that cannot be loaded are listed', () => {
    const header = headerOf(
      member('a', 'F8_E4M3', '4', '0,4'),
      member('b', 'F4', '2', '4,5'),
      member('c', 'Q7', '99', '5,6'),
    );
    const { entries } = parse(handMade(header, 6));
    expect([...entries.values()].map((entry) => [entry.dtype, entry.formatDtype])).toEqual([
      ['unsupported', 'F8_E4M3'],
      ['unsupported', 'F4'],
      ['unsupported', 'Q7'],
    ]);
  });

  test('dtype names go both ways', () => {
    for (const [ours, theirs] of [
      ['f32', 'F32'],
      ['bf16', 'BF16'],
      ['bool', 'BOOL'],
      ['i64', 'I64'],
      ['u8', 'U8'],
    ] as const) {
      expect(toFormatDtype(ours)).toBe(theirs);
      expect(toFormatDtype(theirs)).toBe(theirs);
      expect(fromFormatDtype(theirs)).toBe(ours);
    }
    expect(toFormatDtype('f8')).toBeUndefined();
    expect(fromFormatDtype('F8_E4M3')).toBeUndefined();
    expect(bitsOf('F6_E2M3')).toBe(6);
    expect(bitsOf('constructor')).toBeUndefined();
  });
});

const good = member('a', 'U8', '4', '0,4');
const cases: [string, Uint8Array, RegExp][] = [
  ['row 1: 0 bytes', new Uint8Array(0), /not a safetensors file \(0 bytes\)/],
  ['row 1: 7 bytes', new Uint8Array(7), /not a safetensors file \(7 bytes\)/],
  [
    'row 2: length 2^64-1',
    handMade('{}', 0, 2n ** 64n - 1n),
    /at most 100000000 bytes: its length says 18446744073709551615/,
  ],
  ['row 2: length 2^53', handMade('{}', 0, 2n ** 53n), /its length says 9007199254740992/],
  ['row 2: length 100,000,001', handMade('{}', 0, 100_000_001n), /its length says 100000001/],
  ['row 2: length is file size - 7', handMade('{}', 0, 3n), /needs 11 bytes, the file has 10/],
  ['length 0', handMade('', 0), /byte 8: .*expected an object, found the end/],
  ['row 3: invalid UTF-8', handMade(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), /byte 10: header must be UTF-8/],
  ['row 3: cut UTF-8', handMade(Uint8Array.of(0x7b, 0x22, 0xe2, 0x82)), /byte 12: header must be UTF-8/],
  ['row 3: overlong UTF-8', handMade(Uint8Array.of(0x7b, 0xc0, 0xaf)), /byte 9: header must be UTF-8/],
  ['row 3: not JSON', handMade('{"a": nope}'), /byte 14: .*expected an object, found "n"/],
  ['row 3: array', handMade('[]'), /byte 8: .*expected an object, found "\["/],
  ['row 3: BOM', handMade('\ufeff{}'), /byte 8: .*found byte 0xef/],
  ['row 3: text after', handMade('{}x'), /byte 10: .*expected the end, found "x"/],
  ['row 3: single quotes', handMade("{'a':1}"), /expected a tensor name, found "'"/],
  ['row 3: trailing comma', handMade(`{${good},}`, 4), /expected a tensor name, found "}"/],
  ['row 3: unterminated string', handMade('{"a'), /byte 9: .*unterminated string/],
  ['row 3: raw control character', handMade('{"a\n":1}'), /control character/],
  ['row 3: bad escape', handMade('{"\\x":1}'), /bad escape/],
  ['row 3: bad unicode escape', handMade('{"\\u12g4":1}'), /bad escape/],
  ['row 3: half a surrogate pair', handMade('{"\\ud800":1}'), /half a surrogate pair/],
  [
    'row 4: overlap',
    handMade(headerOf(member('a', 'U8', '8', '0,8'), member('b', 'U8', '8', '4,12')), 16),
    /"b": must not overlap "a": it starts at offset 4, expected 8/,
  ],
  [
    'row 4: overlap that needs more than there is',
    handMade(headerOf(member('a', 'U8', '8', '0,8'), member('b', 'U8', '8', '4,12')), 12),
    /tensors overlap: up to this one they need 16 bytes, the file holds 12/,
  ],
  [
    'row 4: gap',
    handMade(headerOf(member('a', 'U8', '4', '0,4'), member('b', 'U8', '4', '8,12')), 12),
    /"b": must follow "a" without a gap: it starts at offset 8, expected 4/,
  ],
  [
    'row 4: gap at the start',
    handMade(headerOf(member('a', 'U8', '4', '4,8')), 8),
    /must follow the header without a gap/,
  ],
  ['row 4: reversed', handMade(headerOf(member('a', 'U8', '4', '4,0')), 4), /must not be reversed: \[4, 0\]/],
  ['row 5: trailing bytes', handMade(headerOf(good), 5), /expected 6[0-9] bytes, found 6[0-9]/],
  ['row 5: only trailing bytes', handMade('{}', 1), /expected 10 bytes, found 11/],
  [
    'row 5: truncated',
    handMade(headerOf(good), 3),
    /"a": must end inside the file: it ends at byte \d+, the file has \d+/,
  ],
  [
    'row 6: dim 2^63',
    handMade(headerOf(member('a', 'U8', '2,9223372036854775808', '0,4')), 4),
    /a dimension must be at most 2\^53 - 1/,
  ],
  [
    'row 6: dim 1.5',
    handMade(headerOf(member('a', 'U8', '1.5', '0,4')), 4),
    /a dimension must be an integer of 0 or more, found 1\.5/,
  ],
  ['row 6: dim -1', handMade(headerOf(member('a', 'U8', '-1', '0,4')), 4), /found -1/],
  ['row 6: dim -0', handMade(headerOf(member('a', 'U8', '-0', '0,0')), 0), /found -0/],
  ['row 6: dim 4e0', handMade(headerOf(member('a', 'U8', '4e0', '0,4')), 4), /found 4e0/],
  ['row 6: dim 04', handMade(headerOf(member('a', 'U8', '04', '0,4')), 4), /malformed number 04/],
  [
    'row 6: dim "4"',
    handMade(headerOf(member('a', 'U8', '"4"', '0,4')), 4),
    /a dimension must be an integer, found """/,
  ],
  ['row 6: dim null', handMade(headerOf(member('a', 'U8', 'null', '0,4')), 4), /a dimension must be an integer/],
  [
    'row 6: product over 2^53',
    handMade(headerOf(member('a', 'U8', '134217728,134217728', '0,4')), 4),
    /below 2\^53 elements/,
  ],
  [
    'row 6: product over 2^53 behind a zero',
    handMade(headerOf(member('a', 'U8', '134217728,134217728,0', '0,0')), 0),
    /below 2\^53 elements/,
  ],
  ['row 6: bits over 2^53', handMade(headerOf(member('a', 'F64', '1125899906842624', '0,4')), 4), /below 2\^53 bits/],
  ['row 6: 65 dims', handMade(headerOf(member('a', 'U8', Array(65).fill(1).join(), '0,1')), 1), /at most 64 numbers/],
  ['part of a byte', handMade(headerOf(member('a', 'F4', '3', '0,2')), 2), /whole bytes: shape \[3\] of F4 is 12 bits/],
  [
    'shape against offsets',
    handMade(headerOf(member('a', 'F32', '2', '0,4')), 4),
    /must have 8 bytes: its data_offsets span 4/,
  ],
  [
    'row 8: name of 1 MB',
    handMade(headerOf(member('n'.repeat(1 << 20), 'U8', '4', '0,4')), 4),
    /byte 9: .*a tensor name is longer than/,
  ],
  [
    'row 8: name of 1,025 bytes',
    handMade(headerOf(member('é'.repeat(513), 'U8', '4', '0,4')), 4),
    /at most 1024 bytes/,
  ],
  ['row 8: duplicate tensor', handMade(headerOf(good, good), 4), /duplicate key "a"/],
  [
    'row 8: duplicate tensor in another spelling',
    handMade(`{${good},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`, 4),
    /duplicate key "a"/,
  ],
  ['row 8: duplicate metadata', handMade('{"__metadata__":{},"__metadata__":{}}'), /duplicate key "__metadata__"/],
  [
    'row 8: duplicate field',
    handMade('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    /duplicate key "dtype"/,
  ],
  ['metadata of numbers', handMade('{"__metadata__":{"a":1}}'), /a string as metadata "a"/],
  ['metadata array', handMade('{"__metadata__":[]}'), /expected an object/],
  ['no dtype', handMade('{"a":{"shape":[0],"data_offsets":[0,0]}}'), /tensor "a": must have a dtype/],
  ['no shape', handMade('{"a":{"dtype":"U8","data_offsets":[0,0]}}'), /tensor "a": must have a shape/],
  ['no offsets', handMade('{"a":{"dtype":"U8","shape":[0]}}'), /data_offsets must be two numbers: found none/],
  ['one offset', handMade('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}'), /two numbers: found 1/],
  ['three offsets', handMade('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}'), /at most 2 numbers/],
  ['dtype number', handMade('{"a":{"dtype":1,"shape":[0],"data_offsets":[0,0]}}'), /a dtype string/],
  ['tensor as array', handMade('{"a":["U8",[0],[0,0]]}'), /expected an object/],
  [
    'deep unknown field',
    handMade('{"a":{"x":[[]],"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    /nested too deeply/,
  ],
  [
    'unknown field beyond f64',
    handMade('{"a":{"x":1e400,"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    /number out of range 1e400/,
  ],
  ['literal cut', handMade('{"a":{"x":nul'), /expected null/],
];

describe('what is refused', () => {
  test.each(cases)('%s', (_name, file, message) => {
    expect(problem(file).message).toMatch(message);
  });

  test('errors carry tensor and byte offset', () => {
    expect(problem(handMade(headerOf(good), 3))).toMatchObject({ tensor: 'a', path: 'w.safetensors' });
    expect(problem(handMade('{} x'))).toMatchObject({ offset: 11 });
  });
});

/** What must hold for anything the parser lets through. */
function checkAccepted(file: Uint8Array): void {
  const { entries, dataOffset } = parse(file);
  let at = dataOffset;
  for (const { byteOffset, byteLength, shape, formatDtype } of entries.values()) {
    expect(byteOffset).toBe(at);
    at += byteLength;
    const bits = bitsOf(formatDtype);
    if (bits !== undefined) expect(shape.reduce((a, b) => a * b, bits)).toBe(byteLength * 8);
  }
  expect(at).toBe(file.length);
}

describe('fuzz', () => {
  const seeds = [
    handMade(
      headerOf(
        '"__metadata__":{"format":"pt"}',
        member('a.weight', 'F32', '2,3', '0,24'),
        member('b', 'BF16', '4', '24,32'),
      ),
      32,
    ),
    handMade(
      headerOf(member('é', 'U8', '4', '0,4'), member('n', 'I64', '', '4,12'), member('z', 'F16', '0', '12,12')),
      12,
    ),
    handMade('{}'),
  ];
  const interesting = [...'{}[]",:\\ 0123456789-eu+.nft_'].map((character) => character.charCodeAt(0));
  const mutation = fc.record({
    at: fc.nat(400),
    byte: fc.oneof(fc.nat(255), fc.constantFrom(...interesting)),
    how: fc.constantFrom('set', 'set', 'insert', 'remove'),
  });

  test('100,000 mutated headers: a SafetensorsError or a file that keeps every rule', () => {
    let [accepted, refused] = [0, 0];
    const started = performance.now();
    fc.assert(
      fc.property(fc.constantFrom(...seeds), fc.array(mutation, { minLength: 1, maxLength: 6 }), (seed, mutations) => {
        const file = [...seed];
        for (const { at, byte, how } of mutations) {
          const place = at % file.length;
          if (how === 'set') file[place] = byte;
          else if (how === 'remove') file.splice(place, 1);
          else file.splice(place, 0, byte);
          if (file.length === 0) file.push(byte);
        }
        try {
          checkAccepted(Uint8Array.from(file));
          accepted++;
        } catch (error) {
          if (!(error instanceof SafetensorsError)) throw error;
          refused++;
        }
      }),
      { numRuns: 100_000 },
    );
    expect(accepted).toBeGreaterThan(1000);
    expect(refused).toBeGreaterThan(10_000);
    expect(performance.now() - started).toBeLessThan(50_000);
  });

  test('any bytes at all', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, framed) => {
        const file = framed ? handMade(bytes) : bytes;
        try {
          checkAccepted(file);
        } catch (error) {
          if (!(error instanceof SafetensorsError)) throw error;
        }
      }),
      { numRuns: 5000 },
    );
  });
});
