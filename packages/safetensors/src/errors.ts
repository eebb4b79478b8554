import { FormatError, type FormatLocation } from '@lorikeet/files';

/** A safetensors file, its index, or a tensor to be written breaks a rule of the format. */
export class SafetensorsError extends FormatError {
  override name = 'SafetensorsError';
  /** The tensor it is about, if it is about one. */
  readonly tensor: string | undefined;
  constructor(path: string, message: string, at: FormatLocation & { tensor?: string } = {}) {
    super(path, message, at);
    this.tensor = at.tensor;
  }
}

/** A name as it is shown in messages: quoted, escaped, at most 100 characters. */
export function shown(name: string): string {
  return JSON.stringify(name.length > 100 ? `${name.slice(0, 100)}...` : name);
}
