/** What must be the same when a run is resumed. */
import { type FileSystem, hashFile, joinPath, sha256Hex } from '@lorikeet/files';
import { openCheckpoint } from '@lorikeet/safetensors';
import type { Tokenizer } from '@lorikeet/tokenizer';
import type { ResolvedConfig } from '../config/schema.ts';
import type { PreparedData } from './prepare-data.ts';

/** Weights up to this size are hashed whole (about a second); of larger ones sizes and headers are. */
const hashedWholeBytes = 512 << 20;

export async function runIdentity(
  files: FileSystem,
  { model, quantization, data, training, peft }: ResolvedConfig,
  { lossOn, sha256, evalSha256 }: PreparedData,
  { chatTemplate = '' }: Tokenizer,
): Promise<Readonly<Record<string, unknown>>> {
  const { maxLength, packing, packingRows, order, maxRows, testSize, splitSeed, onBadRow, sampleBy } = data;
  const { perDeviceTrainBatchSize, gradientCheckpointing, labelSmoothingFactor, neftuneNoiseAlpha } = training;
  return {
    model: await modelHash(files, model.path),
    tokenizer: await hashFile(files, joinPath(model.path, 'tokenizer.json')),
    chatTemplate: sha256Hex(new TextEncoder().encode(chatTemplate)),
    dataSha256: sha256,
    evalSha256,
    lossOn, maxLength, packing, packingRows, order, maxRows, testSize, splitSeed, onBadRow, sampleBy,
    perDeviceTrainBatchSize, gradientCheckpointing, labelSmoothingFactor, neftuneNoiseAlpha,
    peft,
    ...(quantization.loadIn4bit || quantization.loadIn8bit ? { quantization } : {}),
    ...(training.activationStorage === 'bf16' ? { activationStorage: 'bf16' } : {}),
    // true and auto give the same bits.
    ...(training.sharePrefix === false ? { sharePrefix: false } : {}),
    ...(packing && data.packingStrategy !== 'bfd' ? { packingStrategy: data.packingStrategy } : {}),
    // Which rows a seed holds out: runs of versions before this one split in another order.
    ...(evalSha256 === null && testSize > 0 ? { splitOrder: 'numpy' } : {}),
  }; // biome-ignore format: a table
}

async function modelHash(files: FileSystem, dir: string): Promise<string> {
  const reader = await openCheckpoint(files, dir);
  const parts = [await hashFile(files, joinPath(dir, 'config.json'))];
  for (const path of new Set([...reader.entries.values()].map((entry) => entry.path))) {
    const size = await files.size(path);
    parts.push(`${size}`);
    if (size <= hashedWholeBytes) parts.push(await hashFile(files, path));
  }
  for (const { name, formatDtype, shape } of reader.entries.values()) parts.push(`${name} ${formatDtype} ${shape}`);
  return sha256Hex(new TextEncoder().encode(parts.join('\n')));
}
