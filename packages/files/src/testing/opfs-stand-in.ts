/**
 * A directory tree with the interface of the browser's origin-private file system, for tests that run in Node,
 * where there is none. Errors carry the names that the WHATWG File System Standard gives them.
 */
const fail = (name: string): never => {
  throw new DOMException(`stand-in: ${name}`, name);
};

class StandInFile {
  readonly kind = 'file';
  bytes = new Uint8Array(0);
  readonly name: string;
  readonly features: StandInFeatures;
  parent: StandInDirectory;
  constructor(name: string, parent: StandInDirectory, features: StandInFeatures) {
    this.name = name;
    this.parent = parent;
    this.features = features;
    if (features.syncHandles) Object.assign(this, { createSyncAccessHandle: async () => this.syncHandle() });
    if (features.move) {
      Object.assign(this, {
        move: async (to: StandInDirectory, newName: string) => {
          this.parent.children.delete(this.name);
          const moved = new StandInFile(newName, to, features);
          moved.bytes = this.bytes;
          to.children.set(newName, moved);
        },
      });
    }
  }
  async getFile(): Promise<File> {
    return new File([this.bytes], this.name);
  }
  splice(at: number, chunk: Uint8Array): void {
    if (this.bytes.length + chunk.length > this.features.quotaBytes) fail('QuotaExceededError');
    const grown = new Uint8Array(Math.max(this.bytes.length, at + chunk.length));
    grown.set(this.bytes);
    grown.set(chunk, at);
    this.bytes = grown;
  }
  syncHandle() {
    return {
      write: (chunk: Uint8Array, { at }: { at: number }) => {
        this.splice(at, chunk);
        return chunk.length;
      },
      truncate: (size: number) => {
        this.bytes = this.bytes.slice(0, size);
      },
      getSize: () => this.bytes.length,
      flush: () => undefined,
      close: () => undefined,
    };
  }
  async createWritable({ keepExistingData }: { keepExistingData: boolean }) {
    const swap = new StandInFile(this.name, this.parent, { ...this.features, syncHandles: false });
    if (keepExistingData) swap.bytes = this.bytes.slice();
    let at = 0;
    return {
      seek: async (to: number) => {
        at = to;
      },
      write: async (chunk: Uint8Array) => {
        swap.splice(at, chunk);
        at += chunk.length;
      },
      close: async () => {
        this.bytes = swap.bytes;
      },
      abort: async () => undefined,
    };
  }
}

class StandInDirectory {
  readonly kind = 'directory';
  readonly children = new Map<string, StandInFile | StandInDirectory>();
  readonly features: StandInFeatures;
  constructor(features: StandInFeatures) {
    this.features = features;
  }
  async getDirectoryHandle(name: string, { create = false } = {}): Promise<StandInDirectory> {
    const child = this.children.get(name);
    if (child instanceof StandInFile) fail('TypeMismatchError');
    if (child instanceof StandInDirectory) return child;
    if (!create) fail('NotFoundError');
    const made = new StandInDirectory(this.features);
    this.children.set(name, made);
    return made;
  }
  async getFileHandle(name: string, { create = false } = {}): Promise<StandInFile> {
    const child = this.children.get(name);
    if (child instanceof StandInDirectory) fail('TypeMismatchError');
    if (child instanceof StandInFile) return child;
    if (!create) fail('NotFoundError');
    const made = new StandInFile(name, this, this.features);
    this.children.set(name, made);
    return made;
  }
  async removeEntry(name: string, { recursive = false } = {}): Promise<void> {
    const child = this.children.get(name) ?? fail('NotFoundError');
    if (child instanceof StandInDirectory && child.children.size > 0 && !recursive) fail('InvalidModificationError');
    this.children.delete(name);
  }
  async *keys(): AsyncGenerator<string> {
    yield* [...this.children.keys()];
  }
}

/** What the browser that is stood in for can do. */
export interface StandInFeatures {
  /** A dedicated worker's synchronous handles. */
  syncHandles: boolean;
  /** `FileSystemFileHandle.move`. */
  move: boolean;
  /** A file growing past this is QuotaExceededError. */
  quotaBytes: number;
}

/** An empty OPFS root. */
export function opfsStandIn(features: Partial<StandInFeatures> = {}): FileSystemDirectoryHandle {
  const all = { syncHandles: false, move: false, quotaBytes: 1 << 30, ...features };
  return new StandInDirectory(all) as unknown as FileSystemDirectoryHandle;
}
