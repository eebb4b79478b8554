/** onnxruntime-node, native code, for inference alone: forward works, each a model of one or two nodes. Weights are constants. */
import { answer } from '../answer.ts';
import type { AttentionSpec, MatmulSpec, OpenPeer, PeerWork, WorkSpec } from '../peer.ts';
import { loadPeer, openNodePeers } from '../peer-install.ts';
import { type OnnxNode, type OnnxTensor, onnxModel } from './onnx-model.ts';

interface Tensor {
  readonly data: Float32Array;
}

interface Session {
  run(feeds: Readonly<Record<string, Tensor>>): Promise<Readonly<Record<string, Tensor>>>;
  release(): Promise<void>;
}

interface Module {
  readonly Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => Tensor;
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> };
}

type Input = OnnxTensor & { readonly values: Float32Array };

/** y from x: what is computed, with the inputs and, for each session that takes its turn, the constants. */
interface Graph {
  readonly inputs: readonly Input[];
  readonly turns: readonly (readonly OnnxTensor[])[];
  readonly nodes: readonly OnnxNode[];
}

const tensor = <V extends OnnxTensor['values']>(name: string, shape: readonly number[], values: V) => ({
  name,
  shape,
  values,
});

/** A product alone is Gemm, whose constant operand is packed once; the transposes of a batched one are com.microsoft's. */
function matmulGraph({ batch, m, k, n, transposeA, transposeB, a, b }: MatmulSpec): Graph {
  const lead = batch === 1 ? [] : [batch];
  const [transA, transB] = [Number(transposeA), Number(transposeB)];
  const io = { inputs: ['x', 'w'], outputs: ['y'] };
  return {
    inputs: [tensor('x', [...lead, ...(transposeA ? [k, m] : [m, k])], a)],
    turns: b.map((w) => [tensor('w', [...lead, ...(transposeB ? [n, k] : [k, n])], w)]),
    nodes: [
      batch === 1
        ? { type: 'Gemm', ...io, attributes: { transA, transB } }
        : { type: 'FusedMatMul', domain: 'com.microsoft', ...io, attributes: { transA, transB } },
    ],
  };
}

function attentionGraph({ heads, width, queries, keys, q, k, v }: AttentionSpec): Graph | null {
  if (queries !== keys && queries !== 1) return null;
  return {
    inputs: [tensor('q', [1, queries, heads * width], q)],
    turns: k.map((one, i) => [
      tensor('k', [1, keys, heads * width], one),
      tensor('v', [1, keys, heads * width], v[i]!),
    ]),
    nodes: [
      {
        type: 'MultiHeadAttention',
        domain: 'com.microsoft',
        inputs: ['q', 'k', 'v'],
        outputs: ['y'],
        attributes: { num_heads: heads, unidirectional: Number(queries > 1) },
      },
    ],
  };
}

const mapTypes: Readonly<Record<string, string>> = {
  add: 'Add',
  exp: 'Exp',
  log: 'Log',
  tanh: 'Tanh',
  sigmoid: 'Sigmoid',
  sin: 'Sin',
  cos: 'Cos',
  gelu: 'Gelu',
};
const silu = (input: string, output: string): OnnxNode => ({
  type: 'QuickGelu',
  domain: 'com.microsoft',
  inputs: [input],
  outputs: [output],
  attributes: { alpha: { float: 1 } },
});

function mapGraph({ map, elements, x, y }: Extract<WorkSpec, { op: 'map' }>): Graph | null {
  const inputs = [tensor('x', [elements], x), ...(y ? [tensor('z', [elements], y)] : [])];
  if (map === 'silu') return { inputs, turns: [[]], nodes: [silu('x', 'y')] };
  const type = mapTypes[map];
  return type ? { inputs, turns: [[]], nodes: [{ type, inputs: y ? ['x', 'z'] : ['x'], outputs: ['y'] }] } : null;
}

/** Null for what onnxruntime has no op for, and for whatever needs gradients. */
function graphOf(spec: WorkSpec): Graph | null {
  if ('direction' in spec && spec.direction === 'both') return null;
  if (spec.op === 'matmul') return matmulGraph(spec);
  if (spec.op === 'attention') return attentionGraph(spec);
  if (spec.op === 'map') return mapGraph(spec);
  if (spec.op === 'rope') {
    const { tokens, heads, width, x, cos, sin } = spec;
    return {
      inputs: [tensor('x', [1, tokens, heads * width], x)],
      turns: [
        [
          tensor('first', [1], BigInt64Array.of(0n)),
          tensor('cos', [tokens, width / 2], cos),
          tensor('sin', [tokens, width / 2], sin),
        ],
      ],
      nodes: [
        {
          type: 'RotaryEmbedding',
          domain: 'com.microsoft',
          inputs: ['x', 'first', 'cos', 'sin'],
          outputs: ['y'],
          attributes: { num_heads: heads, rotary_embedding_dim: width },
        },
      ],
    };
  }
  if (spec.op !== 'rmsNorm' && spec.op !== 'swiglu' && spec.op !== 'softmax' && spec.op !== 'sum') return null;
  const shape = [spec.rows, spec.width];
  if (spec.op === 'swiglu')
    return {
      inputs: [tensor('gate', shape, spec.gate), tensor('up', shape, spec.up)],
      turns: [[]],
      nodes: [silu('gate', 'act'), { type: 'Mul', inputs: ['act', 'up'], outputs: ['y'] }],
    };
  const inputs = [tensor('x', shape, spec.x)];
  if (spec.op === 'softmax')
    return {
      inputs,
      turns: [[]],
      nodes: [{ type: 'Softmax', inputs: ['x'], outputs: ['y'], attributes: { axis: -1 } }],
    };
  if (spec.op === 'rmsNorm')
    return {
      inputs,
      turns: [[tensor('w', [spec.width], spec.weight)]],
      nodes: [
        {
          type: 'SimplifiedLayerNormalization',
          inputs: ['x', 'w'],
          outputs: ['y'],
          attributes: { axis: -1, epsilon: { float: spec.eps }, stash_type: 1 },
        },
      ],
    };
  const axes = spec.axis === 'all' ? [0n, 1n] : [BigInt(spec.axis)];
  return {
    inputs,
    turns: [[tensor('axes', [axes.length], BigInt64Array.from(axes))]],
    nodes: [{ type: 'ReduceSum', inputs: ['x', 'axes'], outputs: ['y'], attributes: { keepdims: 0 } }],
  };
}

async function graphWork(ort: Module, threads: number, { inputs, turns, nodes }: Graph): Promise<PeerWork> {
  const options = {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    // Its threads may spin inside a run, but not between runs.
    extra: { session: { force_spinning_stop: '1' } },
  };
  const sessions: Session[] = [];
  for (const initializers of turns)
    sessions.push(
      await ort.InferenceSession.create(onnxModel({ inputs, outputs: ['y'], initializers, nodes }), options),
    );
  const feeds = Object.fromEntries(
    inputs.map(({ name, shape, values }) => [name, new ort.Tensor('float32', values, shape)]),
  );
  let turn = 0;
  return {
    run: () => sessions[turn++ % sessions.length]!.run(feeds),
    result: async () => [(await sessions[0]!.run(feeds)).y!.data],
    dispose: () => {
      for (const session of sessions) void session.release();
    },
  };
}

const peer = { folder: 'onnxruntime', name: 'onnxruntime-node' };

export const open: OpenPeer = (threads) =>
  openNodePeers(
    peer,
    import.meta.url,
    threads.map((count) => ({ name: 'onnxruntime', threads: count })),
  );

if (import.meta.main) {
  const threads = Number(process.argv[3]);
  const { require, version } = loadPeer(peer);
  const ort = require(peer.name) as Module;
  await answer({ version, threads }, async (spec) => {
    const graph = graphOf(spec);
    return graph && graphWork(ort, threads, graph);
  });
  process.exit();
}
