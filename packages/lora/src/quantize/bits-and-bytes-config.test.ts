import { memoryFiles, writeJson } from '@lorikeet/files';
import { describe, expect, it } from 'vitest';
import {
  bitsAndBytesJson,
  completeBitsAndBytesConfig,
  isQuantizedPath,
  parseBitsAndBytesConfig,
  qloraConfig,
  readQuantizationConfig,
} from './bits-and-bytes-config.ts';
import { meanF32 } from './mean-f32.ts';
import { parseQuantState, quantStateBytes } from './quant-state.ts';

/** What transformers 5.23 writes for BitsAndBytesConfig(load_in_4bit=True). */
const written = {
  _load_in_4bit: true,
  _load_in_8bit: false,
  bnb_4bit_compute_dtype: 'float32',
  bnb_4bit_quant_storage: 'uint8',
  bnb_4bit_quant_type: 'fp4',
  bnb_4bit_use_double_quant: false,
  llm_int8_enable_fp32_cpu_offload: false,
  llm_int8_has_fp16_weight: false,
  llm_int8_skip_modules: null,
  llm_int8_threshold: 6.0,
  load_in_4bit: true,
  load_in_8bit: false,
  quant_method: 'bitsandbytes',
};

describe('BitsAndBytesConfig', () => {
  it("keeps transformers' defaults where a file leaves them out, and writes transformers' JSON", () => {
    const { config, unknownKeys } = parseBitsAndBytesConfig({ load_in_4bit: true, quant_method: 'bitsandbytes' });
    expect(unknownKeys).toEqual([]);
    expect(completeBitsAndBytesConfig(config)).toMatchObject({ bnb4bitQuantType: 'fp4', bnb4bitUseDoubleQuant: false });
    expect(bitsAndBytesJson(config)).toEqual(written);
    expect(bitsAndBytesJson(parseBitsAndBytesConfig(written).config)).toEqual(written);
    expect(completeBitsAndBytesConfig(qloraConfig)).toMatchObject({ bnb4bitQuantType: 'nf4', blocksize: 64 });
  });
  it('takes either spelling, and tells of keys that nobody knows', () => {
    const both = [
      { bnb_4bit_quant_type: 'nf4', llm_int8_threshold: 4 },
      { bnb4bitQuantType: 'nf4', llmInt8Threshold: 4 },
    ];
    for (const json of both)
      expect(parseBitsAndBytesConfig(json).config).toEqual({ bnb4bitQuantType: 'nf4', llmInt8Threshold: 4 });
    expect(parseBitsAndBytesConfig({ bnb_5bit: 1 }).unknownKeys).toEqual(['bnb_5bit']);
  });
  it.each([
    [{ load_in_4bit: true, load_in_8bit: true }, 'loadIn4bit and loadIn8bit must not both be true'],
    [{ bnb_4bit_quant_type: 'int4' }, "bnb4bitQuantType must be 'nf4' or 'fp4': got \"int4\""],
    [
      { llm_int8_has_fp16_weight: true },
      'llmInt8HasFp16Weight must be false (8-bit weights are frozen here): got true',
    ],
    [
      { llm_int8_skip_modules: 'lm_head' },
      'llmInt8SkipModules must be a list of names or regular expressions: got "lm_head"',
    ],
    [{ load_in_4bit: 'yes' }, 'loadIn4bit must be true or false: got "yes"'],
    [
      { quant_method: 'gptq', bits: 4 },
      'quant_method must be "bitsandbytes": got "gptq". Load the 16-bit model instead.',
    ],
    [{ load_in_4bit: true, loadIn4bit: true }, 'loadIn4bit must be given once'],
    [{ llm_int8_skip_modules: ['('] }, 'llmInt8SkipModules must be a list of names or regular expressions: got ["("]'],
    [[], 'must be an object of quantization options: got []'],
  ])('refuses %j', (json, message) => {
    expect(() => parseBitsAndBytesConfig(json, { source: 'm/config.json' })).toThrow(message);
    expect(() => parseBitsAndBytesConfig(json, { source: 'm/config.json' })).toThrow(/^m\/config\.json: /);
  });
  it("skips by transformers' rule", () => {
    const skips = (list: string[] | undefined, path: string): boolean =>
      !isQuantizedPath(path, list ? { llmInt8SkipModules: list } : {});
    expect(skips(undefined, 'lm_head')).toBe(true);
    expect(skips(undefined, 'model.layers.0.mlp.down_proj')).toBe(false);
    expect(skips(['down_proj'], 'lm_head')).toBe(false); // a list takes the place of the default
    expect(skips(['model.layers.1'], 'model.layers.1.mlp.down_proj')).toBe(true);
    expect(skips(['model.layers.1'], 'model.layers.11.mlp.down_proj')).toBe(false);
    expect(skips(['down_proj'], 'model.layers.1.mlp.down_proj')).toBe(true);
    expect(skips(['model.layers.[0-3].mlp'], 'model.layers.2.mlp.down_proj')).toBe(true);
    expect(skips(['model.layers.[0-3].mlp'], 'model.layers.4.mlp.down_proj')).toBe(false);
  });
  it('is found in config.json', async () => {
    const files = memoryFiles();
    await files.makeDirectory('m');
    await writeJson(files, 'm/config.json', { model_type: 'phi3' });
    expect(await readQuantizationConfig(files, 'm')).toBeUndefined();
    await writeJson(files, 'm/config.json', { quantization_config: written });
    expect(await readQuantizationConfig(files, 'm')).toMatchObject({ loadIn4bit: true });
    await writeJson(files, 'm/config.json', { quantization_config: { quant_method: 'awq' } });
    await expect(readQuantizationConfig(files, 'm')).rejects.toMatchObject({
      name: 'FormatError',
      message: expect.stringContaining('m/config.json: quantization_config: quant_method must be "bitsandbytes"'),
    });
  });
});

describe('quantization state', () => {
  const plain = { quantType: 'nf4', blocksize: 64, dtype: 'bf16', shape: [8, 16] } as const;
  it.each([
    [0.01322934590280056, '0.01322934590280056'],
    [0.000009999999747378752, '9.999999747378752e-06'],
    [0.00011123, '0.00011123'],
    [2, '2.0'],
    [1.5e16, '1.5e+16'],
  ])('writes the offset %f as Python does', (offset, text) => {
    const bytes = quantStateBytes({ ...plain, nested: { blocksize: 256, offset } });
    expect(new TextDecoder().decode(bytes)).toBe(
      `{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": ${text}}`,
    );
    expect(parseQuantState(bytes, 'nf4', 'x')).toEqual({
      ...plain,
      nested: { blocksize: 256, offset: Math.fround(offset) },
    });
  });
  it('of plain scales has no nested fields', () => {
    expect(new TextDecoder().decode(quantStateBytes(plain))).toBe(
      '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 16]}',
    );
    expect(parseQuantState(quantStateBytes(plain), 'nf4', 'x')).toEqual({ ...plain, nested: undefined });
  });
});

describe('meanF32', () => {
  // torch 2.15, one thread: torch.tensor(v).mean().item() of v[i] = f32(i * 2654435761 mod 2^32) / 2^32
  it.each([
    [1, 0.0],
    [7, 0.4255305230617523],
    [8, 0.41311898827552795],
    [31, 0.49631622433662415],
    [33, 0.4946044087409973],
    [100, 0.4926823675632477],
    [513, 0.4993516802787781],
    [4096, 0.5000273585319519],
    [8200, 0.4999628961086273],
    [40000, 0.4999935030937195],
    [393216, 0.4999963939189911],
  ])('of %i values has the bits of torch.mean', (length, expected) => {
    const values = Float32Array.from({ length }, (_, i) => Math.fround((Math.imul(i, 2654435761) >>> 0) / 2 ** 32));
    expect(meanF32(values)).toBe(expected);
  });
});
