/** How much of a run is computed once for several rows, and what stands against it. */
import { countSharedTokens, type Phi3Config } from '@lorikeet/phi3';
import type { BatchSource } from '@lorikeet/trainer';
import type { ResolvedConfig } from '../config/schema.ts';
import { userError } from '../errors.ts';

export interface SharedTokens {
  /** Part of the tokens that stand with the same tokens before them in another row of their batch; 0 where sharePrefix is false. */
  readonly part: number;
  /** The option because of which they are computed all the same. */
  readonly obstacle: string | null;
}

/** The option that draws random numbers for each token in training, so that none may stand for another. */
export function sharingObstacle({ training, peft }: ResolvedConfig, { residPdrop }: Phi3Config): string | null {
  if (peft.loraDropout > 0) return `peft.loraDropout: ${peft.loraDropout}`;
  if (training.neftuneNoiseAlpha !== undefined) return `training.neftuneNoiseAlpha: ${training.neftuneNoiseAlpha}`;
  return residPdrop > 0 ? `the model's resid_pdrop: ${residPdrop}` : null;
}

/** @throws CliError (exit code 2) where sharing is asked for by name and cannot be */
export function refuseObstacle(config: ResolvedConfig, model: Phi3Config): void {
  const obstacle = config.training.sharePrefix === true ? sharingObstacle(config, model) : null;
  if (obstacle === null) return;
  throw userError('config: training.sharePrefix must not be true where random numbers are drawn for each token.', {
    found: obstacle,
    fix: 'Turn that off, or set training.sharePrefix: auto.',
  });
}

/** Micro-batches that are looked at. */
const seenBatches = 256;

/** The order of the batches is left as it is. */
export function sharedTokens(config: ResolvedConfig, model: Phi3Config, batches: BatchSource): SharedTokens {
  const obstacle = sharingObstacle(config, model);
  if (config.training.sharePrefix === false) return { part: 0, obstacle };
  const state = batches.state();
  let [tokens, shared] = [0, 0];
  for (let i = 0; i < Math.min(seenBatches, batches.batchesPerEpoch); i++) {
    const batch = batches.next();
    tokens += batch.ids.length;
    shared += countSharedTokens(model, batch);
  }
  batches.restore(state);
  return { part: shared / tokens, obstacle };
}

/** A smaller part is not worth a line. */
const leastPart = 0.05;

/** A line for people; undefined where there is nothing to say. */
export function describeSharing({ part, obstacle }: SharedTokens): string | undefined {
  if (part < leastPart) return undefined;
  const percent = `${Math.round(100 * part)} %`;
  return obstacle === null
    ? `rows of a batch begin alike: ${percent} of the tokens need not be computed again (training.sharePrefix)`
    : `rows of a batch begin alike: ${percent} of the tokens would not be computed again, were it not for ${obstacle}, which is drawn for each token`;
}
