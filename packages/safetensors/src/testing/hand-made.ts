/** Files put together byte by byte, valid or not, so that no test of the reader depends on the writer. */

/** A file of a header given as text or bytes, and data. `length` overrides what the first 8 bytes say. */
export function handMade(header: string | Uint8Array, data: number | Uint8Array = 0, length?: bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header;
  const body = typeof data === 'number' ? new Uint8Array(data) : data;
  const file = new Uint8Array(8 + text.length + body.length);
  new DataView(file.buffer).setBigUint64(0, length ?? BigInt(text.length), true);
  file.set(text, 8);
  file.set(body, 8 + text.length);
  return file;
}

/** `"name":{"dtype":...,"shape":[...],"data_offsets":[...]}`; the parts are put in as they are. */
export function member(name: string, dtype: string, shape: string, offsets: string): string {
  return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${offsets}]}`;
}

/** A header of some members. */
export const headerOf = (...members: string[]): string => `{${members.join(',')}}`;
