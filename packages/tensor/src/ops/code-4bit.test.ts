import { expect, test } from 'vitest';
import { dequantize4bit, quantize4bit, referenceBackend, tensor } from '../index.ts';
import { decision4bit, fp4Code, nf4Code, type QuantType4bit } from './code-4bit.ts';

const backend = referenceBackend();

// As bitsandbytes 0.50 prints them (get_4bit_type, quantize_4bit's CUDA kernel).
const nf4 = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
]; // biome-ignore format: a table
const nf4Borders = [
  -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
  -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
  0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482,
]; // biome-ignore format: a table
const fp4 = [0, 0.0625, 8, 12, 4, 6, 2, 3];

test('the codes from their definition are the published ones, in every bit', () => {
  expect([...nf4Code]).toEqual(nf4.map(Math.fround));
  expect([...fp4Code]).toEqual([
    ...fp4.map((x) => Math.fround(x / 12)),
    0,
    ...fp4.slice(1).map((x) => -Math.fround(x / 12)),
  ]);
});

test('the borders of NF4 are those of the CUDA kernel but for the last, one f32 above it', () => {
  const { borders, order } = decision4bit('nf4');
  expect([...order]).toEqual(Array.from({ length: 16 }, (_, i) => i));
  expect([...borders.subarray(0, 14)]).toEqual(nf4Borders.map(Math.fround));
  expect(borders[14]).toBe(0.8614784479141235);
  expect([...decision4bit('fp4').order]).toEqual([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]);
});

const quantized = async (values: number[], quantType: QuantType4bit, blocksize = 64) => {
  const { packed, absmax } = quantize4bit(tensor(values, { backend }), { quantType, blocksize });
  return { packed: [...(await packed.data())], absmax: [...(await absmax.data())] };
};

// Expected bytes were recorded from bitsandbytes.functional.quantize_4bit 0.50.2 on a CPU.
test('odd lengths, a short last block and blocks of zeros as bitsandbytes packs them', async () => {
  const values = [1, -1, 0.5, 0, -0, ...new Array<number>(60).fill(0)];
  const least = Math.fround(1e-38);
  const zeros = new Array<number>(31).fill(119);
  expect(await quantized(values, 'nf4')).toEqual({ packed: [240, 199, ...zeros], absmax: [1, least] });
  expect(await quantized(values, 'fp4')).toEqual({ packed: [59, 80, ...zeros.fill(0)], absmax: [1, least] });
  expect((await quantized(new Array<number>(65).fill(0), 'nf4')).absmax).toEqual([0, least]);
});

test('a border itself belongs below, the next number above', async () => {
  for (const quantType of ['nf4', 'fp4'] as const) {
    const { borders, order } = decision4bit(quantType);
    const above = (x: number) => Math.fround(x === 0 ? 2 ** -149 : x + Math.abs(x) * 2 ** -23);
    const values = [...borders, 1, ...Array.from(borders, above), 1, ...new Array<number>(32).fill(0)];
    const { packed } = await quantized(values, quantType);
    const nibbles = packed.flatMap((byte) => [byte >> 4, byte & 15]);
    expect(nibbles.slice(0, 15)).toEqual([...order.subarray(0, 15)]);
    expect(nibbles.slice(16, 31)).toEqual([...order.subarray(1)]);
  }
});

test('NaN and infinities show in absmax, and the last nibble stands for NaN', async () => {
  const rest = [1, ...new Array<number>(62).fill(0.5)];
  const broken = await quantized([Number.NaN, ...rest], 'nf4');
  expect(broken).toEqual({ packed: new Array<number>(32).fill(255), absmax: [Number.NaN] });
  const infinite = await quantized([Number.POSITIVE_INFINITY, ...rest], 'nf4');
  expect(infinite).toEqual({ packed: [247, ...new Array<number>(31).fill(119)], absmax: [Number.POSITIVE_INFINITY] });
});

test('double quantization multiplies and adds in f32, then the product is rounded to the dtype', async () => {
  const bytes = (values: number[]) => tensor(values, { backend, dtype: 'u8' });
  const code = Float32Array.from({ length: 256 }, (_, i) => (i - 127) / 129);
  const nested = {
    absmax: tensor([0.1], { backend }),
    code: tensor(code, { backend }),
    offset: 0.3,
    blocksize: 256,
  };
  const weight = { packed: bytes(new Array<number>(32).fill(0xfe)), absmax: bytes([200]), nested, blocksize: 64 };
  const absmax = Math.fround(Math.fround(code[200]! * Math.fround(0.1)) + Math.fround(0.3));
  const dense = dequantize4bit({ ...weight, quantType: 'nf4', shape: [1, 64], dtype: 'f32' });
  expect((await dense.data()).slice(0, 2)).toEqual(Float32Array.of(absmax, Math.fround(nf4Code[14]! * absmax)));
  const half = dequantize4bit({ ...weight, quantType: 'nf4', shape: [1, 64], dtype: 'f16' });
  expect((await half.data()).slice(0, 2)).toEqual(
    Float32Array.of(Math.f16round(absmax), Math.f16round(Math.fround(nf4Code[14]! * absmax))),
  );
});
