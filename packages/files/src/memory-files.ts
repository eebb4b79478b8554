import { concatBytes } from './bytes.ts';
import { fileError } from './errors.ts';
import type { FileSystem, FileWriter } from './file-system.ts';
import { pathSegments } from './paths.ts';

interface FileNode {
  kind: 'file';
  bytes: Uint8Array;
  /** Content at the last sync; kept only under a power-loss simulation. */
  durable?: Uint8Array;
}
interface DirectoryNode {
  kind: 'directory';
  entries: Map<string, Node>;
  /** Entries at the last sync, and the changes since, oldest first; kept only under a power-loss simulation. */
  durable: Map<string, Node>;
  pending: Change[][];
}
type Node = FileNode | DirectoryNode;
/** One entry of a directory set to a node, or taken out. */
type Change = [name: string, node: Node | undefined];

const directory = (): DirectoryNode => ({ kind: 'directory', entries: new Map(), durable: new Map(), pending: [] });

function apply(entries: Map<string, Node>, changes: Change[]): void {
  for (const [name, node] of changes) {
    if (node) entries.set(name, node);
    else entries.delete(name);
  }
}

/** Total bytes below a node. */
const weight = (node: Node): number =>
  node.kind === 'file' ? node.bytes.length : [...node.entries.values()].reduce((sum, child) => sum + weight(child), 0);

/** Options of `memoryFiles`. */
export interface MemoryFilesOptions {
  /** Writing more than this many bytes in all is ENOSPC. @defaultValue no limit */
  capacityBytes?: number;
  /** Remember what was synced, so that `afterPowerLoss` can forget the rest. Costs a second copy. @defaultValue false */
  simulatePowerLoss?: boolean;
}

/** Files in memory. */
export interface MemoryFiles extends FileSystem {
  /**
   * What a disk could hold after the power failed now; this object is not changed. Needs `simulatePowerLoss`.
   * A synced file keeps its content; an unsynced one is dropped, cut, zeroed in part, or kept. Entry changes of each directory
   * survive up to its last `syncDirectory` and then up to a random point, in order (as a journaling file system does).
   * @param random uniform numbers in [0, 1)
   */
  afterPowerLoss(random: () => number): MemoryFiles;
}

class Tree {
  readonly root: DirectoryNode;
  readonly options: MemoryFilesOptions;
  constructor(options: MemoryFilesOptions, root = directory()) {
    this.options = options;
    this.root = root;
  }

  find(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    for (const name of pathSegments(path)) {
      if (node?.kind !== 'directory') return undefined;
      node = node.entries.get(name);
    }
    return node;
  }

  file(operation: string, path: string): FileNode {
    const node = this.find(path);
    if (!node) throw fileError('ENOENT', operation, path);
    if (node.kind === 'directory') throw fileError('EISDIR', operation, path);
    return node;
  }

  /** The directory that holds the last name of `path`, and that name. */
  slot(operation: string, path: string): [DirectoryNode, string] {
    const parts = pathSegments(path);
    const name = parts.pop();
    if (name === undefined) throw fileError('EINVAL', operation, path);
    const parent = this.find(parts.join('/'));
    if (!parent) throw fileError('ENOENT', operation, path);
    if (parent.kind === 'file') throw fileError('ENOTDIR', operation, path);
    return [parent, name];
  }

  change(dir: DirectoryNode, changes: Change[]): void {
    apply(dir.entries, changes);
    if (this.options.simulatePowerLoss) dir.pending.push(changes);
  }

  create(operation: string, path: string): FileNode {
    const [parent, name] = this.slot(operation, path);
    const existing = parent.entries.get(name);
    if (existing?.kind === 'directory') throw fileError('EISDIR', operation, path);
    if (existing) return existing;
    const node: FileNode = { kind: 'file', bytes: new Uint8Array(0) };
    this.change(parent, [[name, node]]);
    return node;
  }

  makeDirectory(path: string): void {
    let node: Node = this.root;
    for (const name of pathSegments(path)) {
      if (node.kind === 'file') throw fileError('ENOTDIR', 'make directory', path);
      let child = node.entries.get(name);
      if (!child) this.change(node, [[name, (child = directory())]]);
      node = child;
    }
    if (node.kind === 'file') throw fileError('EEXIST', 'make directory', path);
  }

  reserve(operation: string, path: string, extra: number): void {
    const { capacityBytes } = this.options;
    if (capacityBytes !== undefined && weight(this.root) + extra > capacityBytes)
      throw fileError('ENOSPC', operation, path);
  }

  rename(from: string, to: string): void {
    const [source, oldName] = this.slot('rename', from);
    const node = source.entries.get(oldName);
    if (!node) throw fileError('ENOENT', 'rename', from);
    const [target, newName] = this.slot('rename', to);
    const replaced = target.entries.get(newName);
    if (replaced === node) return;
    if (replaced && (node.kind === 'directory' || replaced.kind === 'directory'))
      throw fileError('EEXIST', 'rename', to);
    if (source === target) {
      this.change(source, [
        [oldName, undefined],
        [newName, node],
      ]);
    } else {
      this.change(target, [[newName, node]]);
      this.change(source, [[oldName, undefined]]);
    }
  }
}

function memoryWriter(tree: Tree, path: string): FileWriter {
  const node = tree.create('open', path);
  node.bytes = new Uint8Array(0);
  let chunks: Uint8Array[] = [];
  let held = 0;
  const settle = (): void => {
    if (chunks.length > 0) node.bytes = concatBytes([node.bytes, ...chunks]);
    chunks = [];
    held = 0;
  };
  return {
    async write(chunk) {
      tree.reserve('write', path, held + chunk.length);
      chunks.push(chunk.slice());
      held += chunk.length;
      // Chunks are joined when they weigh as much as the file, so that n small writes copy O(n) bytes in all.
      if (held >= node.bytes.length) settle();
    },
    async sync() {
      settle();
      if (tree.options.simulatePowerLoss) node.durable = node.bytes.slice();
    },
    async close() {
      settle();
    },
    async abort() {
      settle();
      const [parent, name] = tree.slot('abort', path);
      if (parent.entries.get(name) === node) tree.change(parent, [[name, undefined]]);
    },
  };
}

function survivingBytes(node: FileNode, random: () => number): Uint8Array {
  const { bytes, durable } = node;
  if (durable && durable.length === bytes.length && durable.every((byte, i) => byte === bytes[i])) return bytes.slice();
  const cut = Math.floor(random() * (bytes.length + 1));
  const fate = Math.floor(random() * 4);
  if (fate === 0) return (durable ?? new Uint8Array(0)).slice();
  if (fate === 1) return bytes.slice(0, cut);
  if (fate === 2) return bytes.slice().fill(0, cut); // the size reached the disk, the data did not
  return bytes.slice();
}

function survivingDirectory(dir: DirectoryNode, random: () => number): DirectoryNode {
  const entries = new Map(dir.durable);
  const kept = Math.floor(random() * (dir.pending.length + 1));
  for (const changes of dir.pending.slice(0, kept)) apply(entries, changes);
  const out = directory();
  for (const [name, node] of entries) {
    const survivor: Node =
      node.kind === 'directory'
        ? survivingDirectory(node, random)
        : { kind: 'file', bytes: survivingBytes(node, random) };
    if (survivor.kind === 'file') survivor.durable = survivor.bytes.slice();
    out.entries.set(name, survivor);
    out.durable.set(name, survivor);
  }
  return out;
}

/** Files in memory, gone when the program ends: for tests, and for browsers without private storage. */
export function memoryFiles(options: MemoryFilesOptions = {}): MemoryFiles {
  return filesOver(new Tree(options));
}

function filesOver(tree: Tree): MemoryFiles {
  const files: MemoryFiles = {
    renamesDirectories: true,
    read: async (path) => tree.file('read', path).bytes.slice(),
    async readRange(path, offset, length) {
      const { bytes } = tree.file('read', path);
      if (offset + length > bytes.length)
        throw fileError(
          'EIO',
          `read bytes ${offset} to ${offset + length} (the file ends at ${bytes.length}) of`,
          path,
        );
      return bytes.slice(offset, offset + length);
    },
    size: async (path) => tree.file('size', path).bytes.length,
    kind: async (path) => tree.find(path)?.kind,
    exists: async (path) => tree.find(path) !== undefined,
    async list(dir) {
      const node = tree.find(dir);
      if (!node) throw fileError('ENOENT', 'list', dir);
      if (node.kind === 'file') throw fileError('ENOTDIR', 'list', dir);
      return [...node.entries.keys()].sort();
    },
    makeDirectory: async (dir) => tree.makeDirectory(dir),
    async remove(path) {
      if (!tree.find(path)) return;
      const [parent, name] = tree.slot('remove', path);
      tree.change(parent, [[name, undefined]]);
    },
    rename: async (from, to) => tree.rename(from, to),
    async append(path, bytes) {
      tree.reserve('append', path, bytes.length);
      const node = tree.create('append', path);
      node.bytes = concatBytes([node.bytes, bytes]);
    },
    async createExclusive(path, bytes) {
      if (tree.find(path)) throw fileError('EEXIST', 'create', path);
      await files.append(path, bytes);
      await files.syncFile(path);
    },
    openWrite: async (path) => memoryWriter(tree, path),
    async syncFile(path) {
      const node = tree.file('sync', path);
      if (tree.options.simulatePowerLoss) node.durable = node.bytes.slice();
    },
    async syncDirectory(dir) {
      const node = tree.find(dir);
      if (!node) throw fileError('ENOENT', 'sync', dir);
      if (node.kind === 'file') throw fileError('ENOTDIR', 'sync', dir);
      node.durable = new Map(node.entries);
      node.pending = [];
    },
    freeBytes: async () =>
      tree.options.capacityBytes === undefined
        ? undefined
        : Math.max(0, tree.options.capacityBytes - weight(tree.root)),
    afterPowerLoss(random) {
      if (!tree.options.simulatePowerLoss) {
        throw new Error('afterPowerLoss: needs memoryFiles({ simulatePowerLoss: true }): it was not set.');
      }
      return filesOver(new Tree(tree.options, survivingDirectory(tree.root, random)));
    },
  };
  return files;
}
