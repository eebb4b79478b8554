import { type FileSystem, joinPath, writeAtomic } from '@lorikeet/files';

/** log.jsonl: one JSON object a line, only ever appended to; on resume, cut back to where the checkpoint stood. */
export class RunLog {
  readonly #files: FileSystem;
  readonly #path: string;
  #bytes = 0;

  private constructor(files: FileSystem, path: string) {
    this.#files = files;
    this.#path = path;
  }

  /** Opens the log of a run; `keepBytes` 0 starts it anew. */
  static async open(files: FileSystem, outputDir: string, keepBytes: number): Promise<RunLog> {
    const log = new RunLog(files, joinPath(outputDir, 'log.jsonl'));
    const old = (await files.exists(log.#path)) ? await files.read(log.#path) : new Uint8Array(0);
    const kept = old.subarray(0, Math.min(keepBytes, old.length));
    if (kept.length !== old.length || old.length === 0) await writeAtomic(files, log.#path, kept);
    log.#bytes = kept.length;
    return log;
  }

  /** Bytes written so far: part of a checkpoint. */
  get bytes(): number {
    return this.#bytes;
  }

  async write(line: Readonly<Record<string, unknown>>): Promise<void> {
    const bytes = new TextEncoder().encode(`${JSON.stringify(line)}\n`);
    await this.#files.append(this.#path, bytes);
    this.#bytes += bytes.length;
  }

  /** Forces the lines so far to the disk, before a checkpoint names their length. */
  sync(): Promise<void> {
    return this.#files.syncFile(this.#path);
  }
}
