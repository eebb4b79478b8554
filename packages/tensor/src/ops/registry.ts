/** Every op there is, for tests, tables and backends. A new op is one line here. */
import type { ElementwiseOp } from '../elementwise.ts';
import type { Op } from '../op.ts';
import { attentionGradOp, attentionOp } from './attention.ts';
import * as elementwise from './elementwise.ts';
import { gatherOp, indexAddOp, indexSelectOp, scatterAddOp } from './index-select.ts';
import { concatOp, contiguousOp, padOp, permuteOp, sliceOp } from './layout.ts';
import { crossEntropyGradOp, crossEntropyOp, crossEntropyWithGradOp } from './loss.ts';
import { lowRankMatmulOp } from './low-rank-matmul.ts';
import { matmulOp } from './matmul.ts';
import { matmul4bitOp } from './matmul-4bit.ts';
import { matmul8bitOp, quantizeRowwiseOp } from './matmul-8bit.ts';
import {
  layerNormGradOp, layerNormOp, layerNormWeightGradOp, logSoftmaxOp, rmsNormGradOp, rmsNormOp, rmsNormWeightGradOp,
  softmaxGradOp, softmaxOp,
} from './normalize.ts'; // biome-ignore format: names
import { dequantize4bitOp, quantize4bitOp } from './quantize-4bit.ts';
import { dequantizeBlockwiseOp, quantizeBlockwiseOp } from './quantize-8bit.ts';
import { argmaxOp, cumsumOp, maxOp, sumOp, sumSquaresOp } from './reduce.ts';
import { ropeOp } from './rope.ts';
import { adamwUpdate, lionUpdate, sgdUpdate, writeRowsOp } from './update.ts';
import { adamw8bitOp, lion8bitOp } from './update-8bit.ts';

/** Rows of the expression language. */
export const elementwiseOps: readonly ElementwiseOp[] = Object.values(elementwise);

/** Ops with a kernel or a composition of their own. */
export const ops = [
  contiguousOp, permuteOp, sliceOp, padOp, concatOp, sumOp, sumSquaresOp, maxOp, argmaxOp, cumsumOp, matmulOp,
  lowRankMatmulOp,
  indexSelectOp, indexAddOp, gatherOp, scatterAddOp, softmaxOp, softmaxGradOp, logSoftmaxOp, rmsNormOp, rmsNormGradOp,
  rmsNormWeightGradOp, layerNormOp, layerNormGradOp, layerNormWeightGradOp, ropeOp, attentionOp, attentionGradOp,
  crossEntropyOp, crossEntropyGradOp, crossEntropyWithGradOp, writeRowsOp,
  quantize4bitOp, dequantize4bitOp, matmul4bitOp,
  quantizeBlockwiseOp, dequantizeBlockwiseOp, quantizeRowwiseOp, matmul8bitOp,
] as unknown as readonly Op<string, Readonly<Record<string, unknown>>>[]; // biome-ignore format: a table

/** Optimizer steps, which write in place. */
export const updates = [adamwUpdate, sgdUpdate, lionUpdate, adamw8bitOp, lion8bitOp] as const;
