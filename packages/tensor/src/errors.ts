/** A shape that an op cannot take. */
export class ShapeError extends Error {
  override name = 'ShapeError';
}
/** A dtype that an op cannot take. */
export class DTypeError extends Error {
  override name = 'DTypeError';
}
/** A tensor was used after `dispose` or after the scope that made it ended. */
export class UseAfterFreeError extends Error {
  override name = 'UseAfterFreeError';
}
/** The device behind a backend is gone; tensors that lived there are lost. */
export class DeviceLostError extends Error {
  override name = 'DeviceLostError';
}
/** A backend could not get the memory it was asked for. */
export class OutOfMemoryError extends Error {
  override name = 'OutOfMemoryError';
}
/** A number that must be finite is not. */
export class NonFiniteError extends Error {
  override name = 'NonFiniteError';
}
