/** The run-time numbers of one dispatch: sizes, strides, offsets, parameters. Nothing is compiled per value. */
export class Uniforms {
  readonly #fields: string[] = [];
  readonly #words: number[] = [];
  static readonly #scratch = new DataView(new ArrayBuffer(4));

  /** Adds a u32 and returns WGSL that reads it. */
  u32(name: string, value: number): string {
    return this.#add(name, 'u32', value >>> 0);
  }
  i32(name: string, value: number): string {
    return this.#add(name, 'i32', value >>> 0);
  }
  f32(name: string, value: number): string {
    Uniforms.#scratch.setFloat32(0, value);
    return this.#add(name, 'f32', Uniforms.#scratch.getUint32(0));
  }
  get words(): readonly number[] {
    return this.#words;
  }
  /** The WGSL declaration. */
  declare(): string {
    const fields = this.#fields.length ? this.#fields : ['unused: u32'];
    return `struct Uniforms { ${fields.join(', ')} }\n@group(0) @binding(0) var<uniform> U: Uniforms;`;
  }
  #add(name: string, type: string, word: number): string {
    this.#fields.push(`${name}: ${type}`);
    this.#words.push(word);
    return `U.${name}`;
  }
}
