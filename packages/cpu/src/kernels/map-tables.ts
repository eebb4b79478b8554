import { type Operand, placesOf } from '@lorikeet/tensor';
import { addressOf } from '../buffer.ts';
import type { Team } from '../team.ts';

/** Optimizers and double quantization use two maps; a program has no use for many. */
const keptTables = 4;
const mapBytes = 1024;

/** Tables of the places in 8-bit maps, in work memory; the last few used are kept. */
export class MapTables {
  readonly #team: Team;
  /** Addresses by the bytes of the map, the last used one last. */
  readonly #tables = new Map<string, number>();

  constructor(team: Team) {
    this.#team = team;
  }

  /** Address of the table of a map; making one may grow the memory. */
  of(map: Operand): number {
    const { memory } = this.#team;
    const at = addressOf(map);
    const bytes = memory.bytes.slice(at, at + mapBytes);
    const key = String.fromCharCode(...bytes);
    const address = this.#tables.get(key) ?? this.#make(new Float32Array(bytes.buffer));
    this.#tables.delete(key);
    this.#tables.set(key, address);
    return address;
  }

  #make(map: Float32Array): number {
    const { memory } = this.#team;
    if (this.#tables.size === keptTables) {
      const [oldest, address] = this.#tables.entries().next().value!;
      this.#tables.delete(oldest);
      memory.release(address);
    }
    const table = placesOf(map);
    const address = memory.allocate(table.length);
    memory.bytes.set(table, address);
    return address;
  }
}
