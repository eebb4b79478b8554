/** Choosing a token from a row of logits, on the host: transformers' logits processors and warpers, in its order. */
import type { RandomKey } from '@lorikeet/tensor';

/** How a token is drawn; has effect with doSample only. */
export interface SamplingOptions {
  /** Divides the logits. Default 1. */
  readonly temperature?: number;
  /** Only the k most likely tokens (and those tied with the last). Default: all. */
  readonly topK?: number;
  /** The smallest set of tokens whose probabilities sum to at least this. Default 1: all. */
  readonly topP?: number;
  /** Only tokens at least this part as likely as the most likely one. Default 0: all. */
  readonly minP?: number;
}

/** Everything that changes logits before a token is chosen. */
export interface ProcessorOptions extends SamplingOptions {
  /** Draw tokens instead of taking the most likely one. Default false. */
  readonly doSample?: boolean;
  /** Makes tokens of prompt and continuation less likely to come again; above 1 to have an effect. Default 1. */
  readonly repetitionPenalty?: number;
}

/** Throws for values outside their range, naming option and value. */
export function checkSampling(options: ProcessorOptions): void {
  const { temperature = 1, topK, topP = 1, minP = 0, repetitionPenalty = 1 } = options;
  const refuse = (name: string, rule: string, value: unknown): never => {
    throw new RangeError(`generate: ${name} must be ${rule}: got ${String(value)}.`);
  };
  if (!(temperature > 0 && Number.isFinite(temperature)))
    refuse('temperature', 'above 0 (for greedy decoding leave doSample out)', temperature);
  if (topK !== undefined && !(Number.isInteger(topK) && topK >= 1)) refuse('topK', 'an integer of at least 1', topK);
  if (!(topP > 0 && topP <= 1)) refuse('topP', 'in (0, 1]', topP);
  if (!(minP >= 0 && minP <= 1)) refuse('minP', 'in [0, 1]', minP);
  if (!(repetitionPenalty > 0)) refuse('repetitionPenalty', 'above 0', repetitionPenalty);
}

/** Each token that occurred is made less likely: positive logits divided by the penalty, negative multiplied (Keskar et al. 2019). */
export function penalizeRepetition(logits: Float64Array, seen: Iterable<number>, penalty: number): void {
  if (penalty === 1) return;
  for (const id of new Set(seen)) {
    const value = logits[id]!;
    logits[id] = value < 0 ? value * penalty : value / penalty;
  }
}

const off = Number.NEGATIVE_INFINITY;

function keepTopK(logits: Float64Array, k: number): void {
  if (k >= logits.length) return;
  const kth = logits.slice().sort()[logits.length - k]!;
  for (let i = 0; i < logits.length; i++) if (logits[i]! < kth) logits[i] = off;
}

/** Drops the least likely tokens while their summed probability stays at most 1 - p; the most likely always stays. */
function keepTopP(logits: Float64Array, p: number): void {
  if (p >= 1) return;
  const probabilities = softmax(logits);
  const order = [...logits.keys()].filter((i) => logits[i] !== off).sort((a, b) => logits[a]! - logits[b]! || b - a);
  let cumulative = 0;
  for (const i of order.slice(0, -1)) {
    cumulative += probabilities[i]!;
    if (cumulative > 1 - p) return;
    logits[i] = off;
  }
}

function keepMinP(logits: Float64Array, minP: number): void {
  if (minP === 0) return;
  const probabilities = softmax(logits);
  const least = minP * probabilities.reduce((most, x) => Math.max(most, x), 0);
  for (let i = 0; i < logits.length; i++) if (probabilities[i]! < least) logits[i] = off;
}

function softmax(logits: Float64Array): Float64Array {
  const top = logits.reduce((most, x) => Math.max(most, x), off);
  const e = logits.map((x) => Math.exp(x - top));
  const sum = e.reduce((s, x) => s + x, 0);
  return e.map((x) => x / sum);
}

/** Temperature, then topK, topP and minP; what they exclude becomes -Infinity. In place. */
export function warp(logits: Float64Array, { temperature = 1, topK, topP = 1, minP = 0 }: SamplingOptions): void {
  if (temperature !== 1) for (let i = 0; i < logits.length; i++) logits[i]! /= temperature;
  if (topK !== undefined) keepTopK(logits, topK);
  keepTopP(logits, topP);
  keepMinP(logits, minP);
}

/**
 * What generate makes of a row of logits [v] after the tokens `ids`, in place: the penalty and, with doSample, the filters
 * of SamplingOptions, in transformers' order. Excluded tokens become -Infinity. For a generation loop of your own.
 */
export function processLogits(logits: Float64Array, ids: Iterable<number>, options: ProcessorOptions): void {
  penalizeRepetition(logits, ids, options.repetitionPenalty ?? 1);
  if (options.doSample) warp(logits, options);
}

/** The index of the largest; the first of equal ones. */
export function argmaxOf(logits: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  return best;
}

/** One index drawn by its probability: the step-th uniform of the key decides. */
export function drawFrom(logits: Float64Array, key: RandomKey, step: number): number {
  const probabilities = softmax(logits);
  const target = key.uniform(step);
  let cumulative = 0;
  let last = 0;
  for (let i = 0; i < probabilities.length; i++) {
    if (probabilities[i] === 0) continue;
    cumulative += probabilities[i]!;
    last = i;
    if (target < cumulative) return i;
  }
  return last; // rounding left the sum a little below the target
}

/** 2^n for n = -1022 .. 0, from the end. */
const powersOfTwo = Float64Array.from({ length: 1023 }, (_, i) => 2 ** -i);
/** Below this e^x is nothing beside 1, and 2^n would leave the table. */
const leastExponent = -700;

/**
 * e^x for x <= 0, within 3e-10 of its size: 2^n e^r with |r| <= log(2) / 2 and Taylor's polynomial of degree 8. Math.exp over a
 * vocabulary of 32,064 took a twelfth of the time of a token of a small model; this takes a quarter of that.
 */
function expOf(x: number): number {
  const n = (x * Math.LOG2E - 0.5) | 0; // to the nearest; a whole number to V8 too
  const r = x - n * Math.LN2;
  const tail = 1 / 120 + r * (1 / 720 + r * (1 / 5040 + r / 40320));
  return powersOfTwo[-n]! * (1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * tail)))));
}

/** log softmax(logits)[id]; NaN where a logit is NaN or infinite above. */
export function logProbability(logits: ArrayLike<number>, id: number): number {
  let top = off;
  for (let i = 0; i < logits.length; i++) if (logits[i]! > top) top = logits[i]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i]! - top;
    if (x < leastExponent) continue;
    sum += expOf(x);
  }
  return logits[id]! - top - Math.log(sum);
}
