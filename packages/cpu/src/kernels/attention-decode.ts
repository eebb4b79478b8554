/**
 * Attention of a few queries with many keys, as in cached generation: K and V are read once, row by row for all heads, in
 * four streams and without packing. The keys of a sequence are cut into parts by shape alone; a task is a part, and a
 * second task adds the parts of a head in order (the split of keys is flash-decoding's, Dao et al. 2023).
 */
import { argument, type FunctionRef, type ModuleBuilder } from '../assembler.ts';
import { f32, f32x4, type I32, i32, int, lanes32, store, type V128, v128 } from '../instructions.ts';
import { scratchBytes } from '../team.ts';
import { attentionWord, Frame, type IntLocal, lowest } from './attention-frame.ts';
import { exp2Below127 } from './exp2.ts';
import { type Features, maddFor } from './lanes.ts';
import { vectorMath } from './math.ts';
import { type Access, accumulators, largest, longTurn, rowLoop, total, walk } from './row-loop.ts';

/** Queries of a sequence that still count as few. */
export const maxDecodeQueries = 8;
/** Keys read side by side: one stream each. */
const streams = [0, 1, 2, 3];
/** Keys of a part are rounded up so that each stream has an even number, which fills the vectors of the softmax. */
export const partStep = 2 * streams.length;

/** A part: query row and count, first key row in the batch, place in its sequence, keys, keys of the sequence, result. */
export const partWord = { row: 0, queries: 1, key: 2, first: 3, count: 4, keys: 5, sums: 6, size: 7 } as const;
/** A sequence: query row and count, the result of its first part, parts. */
export const joinedWord = { row: 0, queries: 1, sums: 2, parts: 3, size: 4 } as const;

/** Where things lie in scratch, in bytes: what a reduction stores, the scaled queries, the scores. */
const place = { reduce: 0, queries: 1024, scores: scratchBytes / 2 };
export const maxDecodeQueryBytes = place.scores - place.queries;
export const maxDecodeScoreBytes = scratchBytes - place.scores;

/** Floats of a part's result for `rows` queries times heads: sums of V, then maxima, then sums of weights. */
export const partFloats = (rows: number, e: number) => rows * (e + 2);

type Ints = IntLocal[] & Record<number, IntLocal>;

/** Tasks `attentionDecode` and `attentionDecodeJoin`. */
export function addAttentionDecode(m: ModuleBuilder, features: Features): void {
  const functions = { dots: dots(m, features), soften: soften(m, features), weigh: weigh(m, features), hide: hide(m) };
  decode(m, functions);
  join(m, features);
}

type Functions = Readonly<Record<'dots' | 'soften' | 'weigh' | 'hide', FunctionRef>>;

/** (four rows of K, q, e, out, buffer): the four products of a query. Each has eight sums that combine in one order. */
function dots(m: ModuleBuilder, features: Features): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(streams.length + 4).fill('i32'), [], (f) => {
    const rows = f.params.slice(0, streams.length) as IntLocal[];
    const [q, e, out, buffer] = f.params.slice(streams.length) as [IntLocal, IntLocal, IntLocal, IntLocal];
    const walkers = [q, ...rows].map((pointer) => walk(f, pointer));
    const zero = f.hoist(f32x4.const(0));
    const sums = rows.map(() => accumulators(f, zero));
    const body = ({ half, load, only }: Access) => {
      const [query, ...keys] = walkers.map((walker) => f.vector(load(walker)));
      for (const [i, key] of keys.entries())
        f.set(sums[i]![half]!, only(madd(query!, key, sums[i]![half]!), sums[i]![half]!));
      return [];
    };
    // Two vectors a turn: four rows of four would fill the registers.
    rowLoop(f, e, walkers, body, longTurn);
    for (const [i, [low, high]] of sums.entries()) {
      f.emit(store.v128(buffer, low!, 32 * i));
      f.emit(store.v128(buffer, high!, 32 * i + 16));
    }
    const each = sums.map((parts, i) =>
      f.vector(f32x4.add(f32x4.add(v128.load(buffer, 32 * i), v128.load(buffer, 32 * i + 16)), parts.at(-1)!)),
    );
    f.emit(store.v128(out, sumsOfLanes(f, each)));
  });
}

type Writer = Parameters<Parameters<ModuleBuilder['function']>[3]>[0];

/** The sums of four vectors' lanes, (0 + 2) + (1 + 3), as one vector. */
function sumsOfLanes(f: Writer, vectors: readonly V128[]): V128 {
  const [a, b, c, d] = vectors as [V128, V128, V128, V128];
  const pair = (x: V128, y: V128) =>
    f.vector(f32x4.add(v128.shuffle(x, y, lanes32(0, 4, 1, 5)), v128.shuffle(x, y, lanes32(2, 6, 3, 7))));
  const [ab, cd] = [pair(a, b), pair(c, d)];
  return f32x4.add(v128.shuffle(ab, cd, lanes32(0, 1, 4, 5)), v128.shuffle(ab, cd, lanes32(2, 3, 6, 7)));
}

/** (scores, low, high, stream length): -infinity for keys outside low .. high; key i of stream j is place 4 i + j. */
function hide(m: ModuleBuilder): FunctionRef {
  return m.function(undefined, new Array(4).fill('i32'), [], (f) => {
    const [scores, low, high, length] = f.params as Ints;
    f.for(0, i32.mul(length!, streams.length), 1, (at) => {
      const stream = i32.and(at, streams.length - 1);
      const key = f.int(i32.add(i32.shrU(at, Math.log2(streams.length)), i32.mul(stream, length!)));
      f.if(i32.or(i32.ltS(key, low!), i32.geS(key, high!)), () => {
        f.emit(store.f32(i32.add(scores!, i32.shl(at, 2)), f.hoist(f32.const(Number.NEGATIVE_INFINITY))));
      });
    });
  });
}

/** (scores, count, where the maximum goes, where the sum goes, buffer): scores become 2^(score - maximum). */
function soften(m: ModuleBuilder, features: Features): FunctionRef {
  return m.function(undefined, new Array(5).fill('i32'), [], (f) => {
    const [scores, count, top, sum, buffer] = f.params as Ints;
    const least = f.hoist(f32x4.const(lowest));
    const tops = accumulators(f, least);
    const first = walk(f, scores!);
    rowLoop(f, count!, [first], ({ half, load, only }) => {
      f.set(tops[half]!, f32x4.pmax(tops[half]!, only(load(first), least)));
      return [];
    });
    const highest = largest(f, tops, buffer!);
    f.emit(store.f32(top!, highest));
    const shift = f.vector(f32x4.splat(highest));
    const zero = f.hoist(f32x4.const(0));
    const sums = accumulators(f, zero);
    const row = walk(f, scores!);
    rowLoop(f, count!, [row], ({ half, load, only }) => {
      const p = f.vector(exp2Below127(f, features, f32x4.sub(load(row), shift)));
      f.set(sums[half]!, f32x4.add(sums[half]!, only(p, zero)));
      return [[row, p]];
    });
    f.emit(store.f32(sum!, total(f, sums, buffer!)));
  });
}

/** (four rows of V, weights, e, out): out += the four rows, weighted. */
function weigh(m: ModuleBuilder, features: Features): FunctionRef {
  const madd = maddFor(features);
  return m.function(undefined, new Array(streams.length + 3).fill('i32'), [], (f) => {
    const rows = streams.map((i) => walk(f, f.intParam(i)));
    const [weights, e, out] = f.params.slice(streams.length) as [IntLocal, IntLocal, IntLocal];
    const spread = streams.map((i) => f.vector(v128.load32Splat(weights, 4 * i)));
    const to = walk(f, out);
    rowLoop(f, e, [to, ...rows], ({ load }) => {
      const sum = rows.reduce<V128>((value, row, i) => f.vector(madd(load(row), spread[i]!, value)), load(to));
      return [[to, sum]];
    });
  });
}

function decode(m: ModuleBuilder, functions: Functions): void {
  m.task('attentionDecode', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const heads = frame.word('heads');
    const at = f.int(i32.add(frame.word('blocks'), i32.mul(chunk, partWord.size * 4)));
    const get = (name: keyof typeof partWord) => f.int(argument(at, partWord[name]));
    const [queries, count, sums] = [get('queries'), get('count'), get('sums')];
    const perStream = i32.shl(i32.divU(i32.add(count, partStep - 1), partStep), 1);
    const part = { frame, queries, count, key: get('key'), length: f.int(perStream) };
    const width = f.int(i32.mul(heads, frame.e));
    const rows = f.int(i32.mul(queries, heads));
    const places = f.int(i32.mul(part.length, streams.length));
    const scaled = f.vector(f32x4.splat(f32.mul(f32.load(args, attentionWord.scale * 4), f32.const(Math.LOG2E))));
    f.for(0, queries, 1, (i) => {
      const from = walk(f, frame.head('q', i32.add(argument(at, partWord.row), i), int(0)));
      const to = walk(f, i32.add(i32.add(scratch, place.queries), i32.shl(i32.mul(i, width), 2)));
      rowLoop(f, width, [from, to], ({ load }) => [[to, f32x4.mul(load(from), scaled)]]);
    });
    overStreams(part, 'k', (pointers, row, weights) => {
      const query = i32.add(i32.add(scratch, place.queries), i32.shl(i32.mul(row, frame.e), 2));
      f.call(functions.dots, ...pointers, query, frame.e, weights, scratch);
    });
    const tops = f.int(i32.add(sums, i32.shl(i32.mul(rows, frame.e), 2)));
    f.for(0, rows, 1, (row) => {
      const scores = f.int(i32.add(i32.add(scratch, place.scores), i32.shl(i32.mul(row, places), 2)));
      hideOutside(functions.hide, { at, row, scores, ...part });
      const top = f.int(i32.add(tops, i32.shl(row, 2)));
      f.call(functions.soften, scores, places, top, i32.add(top, i32.shl(rows, 2)), scratch);
    });
    f.fill(sums, 0, i32.shl(i32.mul(rows, frame.e), 2));
    overStreams(part, 'v', (pointers, row, weights) => {
      f.call(functions.weigh, ...pointers, weights, frame.e, i32.add(sums, i32.shl(i32.mul(row, frame.e), 2)));
    });
  });
}

interface Part {
  readonly frame: Frame;
  readonly queries: IntLocal;
  readonly count: IntLocal;
  /** First key's row in the batch. */
  readonly key: IntLocal;
  /** Keys of a stream. */
  readonly length: IntLocal;
}

/** Visits the part's rows of K or V, four at a time, head by head, with each query row of the head. */
function overStreams(
  { frame, queries, count, key, length }: Part,
  from: 'k' | 'v',
  visit: (pointers: readonly IntLocal[], row: I32, weights: I32) => void,
): void {
  const { f, e, scratch } = frame;
  const [heads, group, stride] = [frame.word('heads'), frame.word('groupSize'), frame.word(`${from}Stride`)];
  const last = f.int(i32.sub(count, 1));
  const rowPlaces = f.int(i32.shl(i32.mul(length, streams.length), 2));
  f.for(0, length, 1, (step) => {
    // Past the last key a stream reads that key again; its weight is hidden.
    const pointers = streams.map((i) => {
      const index = i32.add(key, i32.min(f.int(i32.add(step, i32.mul(length, i))), last));
      return f.int(i32.add(frame.word(from), i32.mul(index, stride)));
    });
    f.for(0, heads, group, (first) => {
      f.for(0, queries, 1, (query) => {
        const row = f.int(i32.add(i32.mul(query, heads), first));
        f.for(0, group, 1, () => {
          const weights = i32.add(i32.add(scratch, place.scores), i32.mul(row, rowPlaces));
          visit(pointers, row, i32.add(weights, i32.shl(step, Math.log2(streams.length) + 2)));
          f.increase(row, 1);
        });
      });
      for (const pointer of pointers) f.increase(pointer, i32.shl(e, 2));
    });
  });
}

interface ScoreRow extends Part {
  readonly at: IntLocal;
  readonly row: IntLocal;
  readonly scores: IntLocal;
}

/** Hides the keys of a part that a query does not see, and the places past the part's last key. */
function hideOutside(hidden: FunctionRef, { frame, at, row, scores, queries, count, length }: ScoreRow): void {
  const { f } = frame;
  const query = i32.divU(row, frame.word('heads'));
  const keys = f.int(i32.sub(argument(at, partWord.keys), argument(at, partWord.first)));
  const causal = i32.mul(frame.word('causal'), i32.sub(i32.add(query, 1), queries));
  const high = f.int(i32.add(keys, causal));
  const low = f.int(i32.sub(high, frame.word('window')));
  f.if(i32.gtS(high, count), () => f.set(high, count));
  const some = i32.or(i32.gtS(low, 0), i32.ltS(high, i32.mul(length, streams.length)));
  f.if(some, () => f.call(hidden, scores, low, high, length));
}

/** out = the parts' sums of V over their sums of weights, each relative to the maximum of all; a task is a head. */
function join(m: ModuleBuilder, features: Features): void {
  const madd = maddFor(features);
  m.task('attentionDecodeJoin', (f, args, chunk, scratch) => {
    const frame = new Frame(f, args, scratch);
    const { e } = frame;
    const heads = frame.word('heads');
    const at = f.int(i32.add(frame.word('blocks'), i32.mul(i32.divU(chunk, heads), joinedWord.size * 4)));
    const get = (name: keyof typeof joinedWord) => f.int(argument(at, joinedWord[name]));
    const [queries, parts, first] = [get('queries'), get('parts'), get('sums')];
    const head = f.int(i32.remU(chunk, heads));
    const rows = f.int(i32.mul(queries, heads));
    const partBytes = f.int(i32.shl(i32.mul(rows, i32.add(e, 2)), 2));
    const zero = f.hoist(f32x4.const(0));
    f.for(0, queries, 1, (query) => {
      const row = f.int(i32.add(i32.mul(query, heads), head));
      const sumAt = f.int(i32.add(first, i32.shl(i32.mul(row, e), 2)));
      const topAt = f.int(i32.add(first, i32.shl(i32.add(i32.mul(rows, e), row), 2)));
      const token = f.int(i32.add(argument(at, joinedWord.row), query));
      const out = f.int(frame.dense('out', token, heads, head));
      const [top, sum] = [f.vector(f.hoist(f32x4.const(lowest))), f.vector(zero)];
      const part = f.int();
      const overParts = (visit: (top: IntLocal, sums: IntLocal) => void) => {
        const [atTop, atSums] = [f.int(topAt), f.int(sumAt)];
        f.setInt(part, 0);
        f.while(part, parts, 1, () => {
          visit(atTop, atSums);
          f.increase(atTop, partBytes);
          f.increase(atSums, partBytes);
        });
      };
      overParts((atTop) => f.set(top, f32x4.pmax(top, v128.load32Splat(atTop))));
      f.fill(out, 0, i32.shl(e, 2));
      overParts((atTop, sums) => {
        const weight = f.vector(exp2Below127(f, features, f32x4.sub(v128.load32Splat(atTop), top)));
        f.set(sum, madd(v128.load32Splat(i32.add(atTop, i32.shl(rows, 2))), weight, sum));
        const [from, to] = [walk(f, sums), walk(f, out)];
        rowLoop(f, e, [from, to], ({ load }) => [[to, madd(load(from), weight, load(to))]]);
      });
      const result = walk(f, out);
      rowLoop(f, e, [result], ({ load }) => [[result, f32x4.div(load(result), sum)]]);
      const log = vectorMath(f, features).log(sum);
      const lse = madd(top, f.hoist(f32x4.const(Math.LN2)), log);
      f.emit(store.f32(frame.lse(token, head), f32x4.extract(lse, 0)));
    });
  });
}
