import { memoryFiles } from '@lorikeet/files';
import { describe, expect, it } from 'vitest';
import { crc32c, EventFile, maskedCrc32c, tfRecord } from './tensorboard.ts';
import { tinyRun } from './testing/tiny-run.ts';

const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A small reader of what the writer promises: records with sound checksums, then protocol-buffer fields. */
function records(file: Uint8Array): Uint8Array[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const found: Uint8Array[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(view.getBigUint64(at, true));
    expect(view.getUint32(at + 8, true)).toBe(maskedCrc32c(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(view.getUint32(at + 12 + length, true)).toBe(maskedCrc32c(data));
    found.push(data);
    at += length + 16;
  }
  return found;
}
type Field = readonly [field: number, value: number | Uint8Array];
function fields(data: Uint8Array): Field[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const found: Field[] = [];
  let at = 0;
  const varint = (): number => {
    let [value, factor] = [0, 1];
    for (;;) {
      const byte = data[at++]!;
      value += (byte & 127) * factor;
      factor *= 128;
      if (byte < 128) return value;
    }
  };
  while (at < data.length) {
    const tag = varint();
    const wire = tag & 7;
    if (wire === 0) found.push([tag >> 3, varint()]);
    else if (wire === 1) found.push([tag >> 3, view.getFloat64((at += 8) - 8, true)]);
    else if (wire === 5) found.push([tag >> 3, view.getFloat32((at += 4) - 4, true)]);
    else {
      const length = varint();
      found.push([tag >> 3, data.subarray(at, (at += length))]);
    }
  }
  return found;
}
const first = (list: readonly Field[], field: number) => list.find(([f]) => f === field)?.[1];

describe('CRC-32C', () => {
  it('gives the check value and the vectors of RFC 3720 B.4', () => {
    expect(crc32c(ascii('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });
  it('is masked as TFRecord does', () => {
    // tensorboard 2.21: tensorboard.compat.tensorflow_stub.pywrap_tensorflow.masked_crc32c(b'123456789')
    expect(maskedCrc32c(ascii('123456789'))).toBe(0xc78ab0e5);
  });
});

describe('EventFile', () => {
  it('frames its data', () => {
    expect(records(tfRecord(ascii('안녕')))).toEqual([ascii('안녕')]);
    expect(tfRecord(new Uint8Array(0))).toHaveLength(16);
  });
  it('a run writes version, session start and the logged numbers; a resumed one a second file', async () => {
    const setting = {
      reportTo: ['tensorboard'],
      loggingSteps: 4,
      saveSteps: 4,
      evalStrategy: 'epoch',
      rows: 6,
    } as const;
    const evaluate = async () => ({ evalLoss: 1.25, tokenAccuracy: 0.5 });
    const controller = new AbortController();
    const files = memoryFiles();
    const onEvent = (e: { type: string; step?: number }) =>
      void (e.type === 'step' && e.step === 6 && controller.abort());
    await tinyRun({ ...setting, evaluate, files, signal: controller.signal, onEvent });
    await tinyRun({ ...setting, evaluate, files, resumeFromCheckpoint: 'auto' });
    const names = (await files.list('run')).filter((n) => n.startsWith('events.'));
    expect(names).toHaveLength(2);
    expect(names[0]).toMatch(/^events\.out\.tfevents\.\d{10}\.lorikeet\.\d+$/);
    const events = records(await files.read(`run/${names[0]}`)).map(fields);
    expect(new TextDecoder().decode(first(events[0]!, 3) as Uint8Array)).toBe('brain.Event:2');
    expect(fields(first(events[1]!, 7) as Uint8Array)).toEqual([[1, 1]]);
    const scalars = events.slice(2).map((e) => {
      const values = fields(first(e, 5) as Uint8Array).map(([, v]) => fields(v as Uint8Array));
      return [
        first(e, 2),
        values.map((v) => new TextDecoder().decode(first(v, 1) as Uint8Array)),
        values.map((v) => first(v, 2)),
      ] as const;
    });
    expect(scalars.map(([step]) => step)).toEqual([1, 3, 4, 6]);
    expect(scalars[0]![1]).toEqual([
      'train/loss',
      'train/grad_norm',
      'train/learning_rate',
      'train/epoch',
      'train/tokens_per_second',
    ]);
    expect(scalars[1]!.slice(1)).toEqual([
      ['eval/loss', 'eval/token_accuracy'],
      [1.25, 0.5],
    ]);
    const log = new TextDecoder().decode(await files.read('run/log.jsonl')).split('\n')[0]!;
    expect(scalars[0]![2][0]).toBe(Math.fround((JSON.parse(log) as { loss: number }).loss));
    const second = records(await files.read(`run/${names[1]}`)).map(fields);
    expect(first(second[1]!, 2)).toBe(7); // TensorBoard drops what earlier files hold from here on
  });
  it('keeps step counts beyond 32 bits', async () => {
    const files = memoryFiles();
    await files.makeDirectory('run');
    const file = await EventFile.open(files, 'run', 1);
    await file.scalars(2 ** 40 + 3, { a: 1 });
    expect(first(fields(records(await files.read(file.path)).at(-1)!), 2)).toBe(2 ** 40 + 3);
  });
});
