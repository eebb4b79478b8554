/** Packing an operand's panels in any form, and the tasks that pack A for all tasks of a product. */
import { argument, type FunctionRef, type Local, type ModuleBuilder, moved } from '../assembler.ts';
import { type I32, type Int, i32, i64 } from '../instructions.ts';
import { type FloatType, floatTypes } from './lanes.ts';
import { packFunctions } from './pack.ts';

type IntLocal = Local<'i32'>;

/** An operand's form as a number: dtype x (is k contiguous in memory). */
export const operandForm = (dtype: FloatType, kContiguous: boolean) =>
  floatTypes.indexOf(dtype) * 2 + (kContiguous ? 1 : 0);
/** Added to the form of an operand that lies in the store. */
export const storeForm = 8;

/** Bytes from the first element of an operand of a form to (lane, step of k). */
export function offsetIn(form: I32, stride: I32, lane: Int, k: Int): I32 {
  const shift = i32.select(i32.ltU(i32.and(form, storeForm - 1), 2), 2, 1);
  return i32.select(
    i32.and(form, 1),
    i32.add(i32.mul(lane, stride), i32.shl(k, shift)),
    i32.add(i32.mul(k, stride), i32.shl(lane, shift)),
  );
}

/** (form, source (64 bits), to, k count, lanes, stride, bytes from panel to panel): all panels of some lanes. */
export function panelsFunction(m: ModuleBuilder, width: number, withStore: boolean): FunctionRef {
  const near = packFunctions(m, width);
  const far = withStore ? packFunctions(m, width, 'i64') : undefined;
  return m.function(undefined, ['i32', 'i64', 'i32', 'i32', 'i32', 'i32', 'i32'], [], (f) => {
    const [form, source, to, count, lanes, stride, panelBytes] = f.params as unknown as [
      IntLocal,
      Local<'i64'>,
      IntLocal,
      IntLocal,
      IntLocal,
      IntLocal,
      IntLocal,
    ];
    const inLanes = (pack: FunctionRef, from: Local<'i32' | 'i64'>) =>
      f.for(0, lanes, width, (lane) => {
        f.call(pack, from, to, count, i32.min(width, i32.sub(lanes, lane)), stride);
        f.set(from, moved(from, i32.mul(stride, width)));
        f.increase(to, panelBytes);
      });
    const pointer = f.int(i32.wrap(source));
    for (const dtype of floatTypes) {
      const [lanesForm, stepsForm] = [operandForm(dtype, true), operandForm(dtype, false)];
      f.if(i32.eq(form, lanesForm), () => inLanes(near[dtype].lanes, pointer));
      f.if(i32.eq(form, stepsForm), () => f.call(near[dtype].steps, pointer, to, count, lanes, stride, panelBytes));
      if (!far) continue;
      f.if(i32.eq(form, lanesForm + storeForm), () => inLanes(far[dtype].lanes, source));
      f.if(i32.eq(form, stepsForm + storeForm), () =>
        f.call(far[dtype].steps, source, to, count, lanes, stride, panelBytes),
      );
    }
  });
}

/** Words of the task `packA`. */
export const packWord = {
  source: 0,
  stride: 1,
  batch: 2,
  to: 3,
  m: 4,
  k: 5,
  panelsPerChunk: 6,
  chunksPerBatch: 7,
  form: 8,
} as const;

/** The task `packA`: chunk = some panels of one matrix of the batch. */
export function packTask(m: ModuleBuilder, panels: FunctionRef, rows: number): void {
  m.task('packA', (f, args, chunk) => {
    const word = (name: keyof typeof packWord) => f.int(argument(args, packWord[name]));
    const [stride, rowCount, k, perChunk, chunks] = [
      word('stride'),
      word('m'),
      word('k'),
      word('panelsPerChunk'),
      word('chunksPerBatch'),
    ];
    const [batch, form] = [f.int(i32.divU(chunk, chunks)), word('form')];
    const panel = f.int(i32.mul(i32.remU(chunk, chunks), perChunk));
    const panelCount = f.int(i32.divU(i32.add(rowCount, rows - 1), rows));
    const panelBytes = f.int(i32.mul(k, rows * 4));
    const first = f.int(i32.mul(panel, rows));
    const count = f.int(i32.min(i32.sub(rowCount, first), i32.mul(perChunk, rows)));
    const source = f.int(i32.add(word('source'), i32.mul(batch, word('batch'))));
    const from = i64.extend(f.int(i32.add(source, offsetIn(form, stride, first, 0))));
    const to = f.int(i32.add(word('to'), i32.mul(i32.add(i32.mul(batch, panelCount), panel), panelBytes)));
    f.call(panels, form, from, to, k, count, stride, panelBytes);
  });
}
