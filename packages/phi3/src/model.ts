/** Phi-3 as transformers' modeling_phi3.py has it (4.57 and 5); properties carry the checkpoint's spelling. */
import { Dropout, type Embedding, type LinearLike, Module, type RMSNorm } from '@lorikeet/nn';
import { checkpointIn, scope, type Tensor, tensor } from '@lorikeet/tensor';
import type { Phi3Config } from './config.ts';
import type { AttentionCache } from './key-value-cache.ts';
import { type LossBatch, type LossOptions, requireLabels, rowsLoss, sharedCausalLoss, trainedTokens } from './loss.ts';
import { addNeftuneNoise } from './neftune.ts';
import { RopeTable } from './rope-table.ts';
import { type SharedPrefixes, sharePrefixes } from './shared-prefix.ts';
import { type PlacedTokens, placeTokens, type TokenBatch } from './token-batch.ts';
import { placesOf, wantedRows } from './wanted-rows.ts';

/** What all layers of one forward share. */
interface LayerContext {
  readonly lengths: readonly number[];
  readonly cache: AttentionCache | null;
  /** Keys of each sequence, where sequences continue others of the batch. */
  readonly keyLengths?: readonly number[] | undefined;
  /** [s] i32, their rows. */
  readonly keyRows?: Tensor | undefined;
  /** [w] i32, the rows that the layer gives; absent: all. */
  readonly outputRows?: Tensor | undefined;
}

const rowsAt = (x: Tensor, rows: Tensor | undefined): Tensor => (rows ? x.indexSelect(rows, 0) : x);

/** Grouped-query attention with rotary embedding over the fused product qkv_proj [(h + 2 kv) e, d]; o_proj [d, h e]. */
export class Phi3Attention extends Module {
  qkv_proj: LinearLike;
  o_proj: LinearLike;
  readonly #config: Phi3Config;
  readonly #layer: number;

  constructor(config: Phi3Config, layer: number, qkv: LinearLike, o: LinearLike) {
    super();
    this.qkv_proj = qkv;
    this.o_proj = o;
    this.#config = config;
    this.#layer = layer;
  }

  /** x [t, d] -> [t, d], or [w, d] with outputRows. q, k and v are column blocks of the fused product, used in place. */
  forward(x: Tensor, cos: Tensor, sin: Tensor, context: LayerContext): Tensor {
    const { lengths, cache, keyRows } = context;
    const { numAttentionHeads: h, numKeyValueHeads: kv, headDim: e, slidingWindow } = this.#config;
    const t = x.shape[0]!;
    const blocks = this.qkv_proj.forward(x).split([h * e, kv * e, kv * e]); // [t, (h + 2 kv) e]
    const q = blocks[0]!.reshape([t, h, e]).rope(cos, sin);
    const own = { k: blocks[1]!.reshape([t, kv, e]).rope(cos, sin), v: blocks[2]!.reshape([t, kv, e]) };
    const seen = keyRows ? { k: own.k.indexSelect(keyRows, 0), v: own.v.indexSelect(keyRows, 0) } : own;
    const { k, v } = cache ? cache.append(this.#layer, own.k, own.v) : seen;
    const keyLengths = cache?.keyLengths ?? context.keyLengths ?? lengths;
    const out = q.attention(k, v, { lengths, keyLengths, slidingWindow, scale: e ** -0.5 });
    return this.o_proj.forward(rowsAt(out.reshape([t, h * e]), context.outputRows));
  }
}

/** The gated feed-forward part: gate_up_proj [2 f, d], down_proj [d, f]. */
export class Phi3MLP extends Module {
  gate_up_proj: LinearLike;
  down_proj: LinearLike;

  constructor(gateUp: LinearLike, down: LinearLike) {
    super();
    this.gate_up_proj = gateUp;
    this.down_proj = down;
  }

  /** down(silu(gate) * up), gate and up being the halves of one product. */
  forward(x: Tensor): Tensor {
    const half = this.gate_up_proj.outFeatures / 2;
    const [gate, up] = this.gate_up_proj.forward(x).split([half, half]) as [Tensor, Tensor];
    return this.down_proj.forward(gate.swiglu(up));
  }
}

/** Attention and feed-forward part, each behind an RMSNorm and added to what came in. */
export class Phi3DecoderLayer extends Module {
  self_attn: Phi3Attention;
  mlp: Phi3MLP;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;
  resid_attn_dropout: Dropout;
  resid_mlp_dropout: Dropout;

  constructor(parts: {
    readonly attention: Phi3Attention;
    readonly mlp: Phi3MLP;
    readonly inputNorm: RMSNorm;
    readonly postAttentionNorm: RMSNorm;
    readonly residPdrop: number;
  }) {
    super();
    this.self_attn = parts.attention;
    this.mlp = parts.mlp;
    this.input_layernorm = parts.inputNorm;
    this.post_attention_layernorm = parts.postAttentionNorm;
    this.resid_attn_dropout = new Dropout(parts.residPdrop);
    this.resid_mlp_dropout = new Dropout(parts.residPdrop);
  }

  /** x [t, d] -> [t, d], or [w, d] with outputRows; frees its intermediate handles. */
  forward(x: Tensor, cos: Tensor, sin: Tensor, context: LayerContext): Tensor {
    return scope(() => {
      const attended = this.self_attn.forward(this.input_layernorm.forward(x), cos, sin, context);
      const h = rowsAt(x, context.outputRows).add(this.resid_attn_dropout.forward(attended));
      const fed = this.mlp.forward(this.post_attention_layernorm.forward(h));
      return h.add(this.resid_mlp_dropout.forward(fed));
    });
  }
}

/** The decoder below the language-model head. */
export class Phi3Model extends Module {
  embed_tokens: Embedding;
  layers: Phi3DecoderLayer[];
  norm: RMSNorm;

  constructor(embedTokens: Embedding, layers: Phi3DecoderLayer[], norm: RMSNorm) {
    super();
    this.embed_tokens = embedTokens;
    this.layers = layers;
    this.norm = norm;
  }
}

/** How gradient checkpointing keeps the inputs of layers. */
export type ActivationStorage = 'f32' | 'bf16';

/** See Phi3ForCausalLM.sharePrefix. */
export type PrefixSharing = 'auto' | boolean;

/** A weight of a loaded checkpoint that holds NaN or infinities. */
export interface NonFiniteWeight {
  readonly path: string;
  readonly count: number;
}

/** Phi-3 with its language-model head. Activations are f32 [t, d]; weights stay in the dtype they are stored in. */
export class Phi3ForCausalLM extends Module {
  model: Phi3Model;
  lm_head: LinearLike;
  readonly config: Phi3Config;
  /** Recompute each layer in the backward instead of keeping its inner activations. Default false. */
  gradientCheckpointing = false;
  /**
   * With gradientCheckpointing: the dtype in which layer inputs wait for the backward. 'bf16' halves them; the loss stays the
   * same and gradients move by a few thousandths of their norm. Default 'f32': gradients are exact.
   */
  activationStorage: ActivationStorage = 'f32';
  /** Training adds noise to the embeddings (NEFTune, transformers' neftune_noise_alpha): about 5 is usual. Default null: none. */
  neftuneNoiseAlpha: number | null = null;
  /**
   * Compute the tokens with which several sequences of a batch begin, such as a system prompt, once for all of them: same
   * losses and gradients up to rounding. 'auto': where that saves enough and nothing is drawn for each token; true: the same,
   * and what is drawn for each token is refused; false: never. Default 'auto'.
   */
  sharePrefix: PrefixSharing = 'auto';
  /** Tokens that end a generation: generation_config.json's eos_token_id, else config.json's. */
  stopTokenIds: readonly number[];
  /** Weights that were not finite when loaded; empty for a sound checkpoint. */
  nonFiniteWeights: readonly NonFiniteWeight[] = [];
  readonly #rope: RopeTable;

  constructor(config: Phi3Config, model: Phi3Model, lmHead: LinearLike) {
    super();
    this.config = config;
    this.model = model;
    this.lm_head = lmHead;
    this.stopTokenIds = config.eosTokenIds;
    this.#rope = new RopeTable(config);
    this.assignPaths();
  }

  /** The backend its tensors live on. */
  get backend() {
    return this.model.embed_tokens.weight.backend;
  }

  /** Whether a sequence of this many tokens is rotated by LongRoPE's long factors. */
  usesLongFactors(sequenceLength: number): boolean {
    return this.#rope.isLong(sequenceLength);
  }

  /**
   * Hidden states [t, d] after the last norm. With a cache each sequence continues what the cache holds of it: inside
   * noGrad only, and positions count from there.
   *
   * @throws ShapeError when ids, lengths and positions do not fit each other; RangeError beyond max_position_embeddings
   */
  forward(batch: TokenBatch, cache: AttentionCache | null = null): Tensor {
    return scope(() => {
      const { hidden, rows } = this.#hidden(batch, cache);
      return rows ? hidden.indexSelect(tensor(rows, { backend: this.backend, dtype: 'i32' }), 0) : hidden;
    });
  }

  /**
   * Hidden states [c, d]; with `rows` [t], token i of the batch has row rows[i] of them, else c is t. Where only `tokens` are
   * read, the last layer may give no other rows: they are then `picked`, and without `rows` hidden is [tokens, d].
   */
  #hidden(batch: TokenBatch, cache: AttentionCache | null, tokens?: Int32Array): HiddenStates {
    const { backend } = this;
    const placed = placeTokens(batch, this.config, this.#rope, cache?.heldLengths);
    const shared = cache ? null : this.#share(placed);
    const { ids, lengths, positions, long } = shared ?? placed;
    const wanted = tokens ? wantedRows(tokens, shared?.rows, ids.length) : null;
    const picked = wanted && this.sharingObstacle() === null ? wanted : null;
    return scope(() => {
      const { cos, sin } = this.#rope.at(positions, long, backend);
      cache?.begin(lengths, backend);
      const rows = this.model.embed_tokens.forward(ids);
      const embedded = rows.dtype === 'f64' ? rows : rows.cast('f32');
      let x = cache ? embedded : this.#withNoise(embedded, batch);
      // Not closed over: a checkpoint keeps its inputs alive, and nothing else.
      const places = (list: Int32Array | undefined): Tensor[] =>
        list ? [tensor(list, { backend, dtype: 'i32' })] : [];
      const keyRows = places(shared?.keyRows);
      const storage = this.activationStorage === 'bf16' ? 'bf16' : null;
      for (const layer of this.model.layers) {
        const outputRows = layer === this.model.layers.at(-1) ? places(picked ?? undefined) : [];
        const run = (h: Tensor, c: Tensor, s: Tensor, ...more: Tensor[]): Tensor =>
          layer.forward(h, c, s, {
            lengths, cache, keyLengths: shared?.keyLengths, keyRows: shared ? more[0] : undefined, outputRows: more[keyRows.length],
          }); // biome-ignore format: one object
        const inputs = [x, cos, sin, ...keyRows, ...outputRows] as const;
        const next = this.gradientCheckpointing && !cache ? checkpointIn(storage, run, ...inputs) : run(...inputs);
        x.dispose();
        x = next;
      }
      cache?.end();
      const hidden = this.model.norm.forward(x);
      if (!shared) return { hidden, picked: picked !== null };
      const at = picked && placesOf(picked, ids.length);
      return { hidden, picked: picked !== null, rows: at ? shared.rows.map((row) => at[row]!) : shared.rows };
    });
  }

  #share(tokens: PlacedTokens): SharedPrefixes | null {
    if (this.sharePrefix === false) return null;
    const obstacle = this.sharingObstacle();
    if (obstacle === null) return sharePrefixes(tokens);
    if (this.sharePrefix === 'auto') return null;
    throw new RangeError(
      `Phi3: sharePrefix must be 'auto' or false where random numbers are drawn for each token: got true, and ${obstacle}. Turn that off, or set sharePrefix to 'auto'.`,
    );
  }

  /** What is drawn for each token as the model stands, so that tokens cannot be shared; null where nothing is. */
  sharingObstacle(): string | null {
    if (this.neftuneNoiseAlpha !== null && this.model.embed_tokens.training) return 'neftuneNoiseAlpha adds noise';
    for (const [path, module] of this.namedModules()) if (module.drawsPerRow) return `${path} has dropout`;
    return null;
  }

  #withNoise(x: Tensor, { lengths, rowTokens = Math.max(...lengths) }: TokenBatch): Tensor {
    const { neftuneNoiseAlpha: alpha } = this;
    return alpha !== null && this.model.embed_tokens.training ? addNeftuneNoise(x, alpha, rowTokens) : x;
  }

  /** Logits [t, v], or [sequences, v] of each sequence's last token with `last`. */
  logits(batch: TokenBatch, { last = false, cache = null }: LogitsOptions = {}): Tensor {
    return scope(() => {
      if (!last) return this.lm_head.forward(this.forward(batch, cache));
      let end = 0;
      const ends = Int32Array.from(batch.lengths, (n) => (end += n) - 1);
      const { hidden, rows, picked } = this.#hidden(batch, cache, ends);
      if (picked && !rows) return this.lm_head.forward(hidden);
      const parts = Array.from(ends, (token) => rows?.[token] ?? token).map((row) => hidden.slice(0, row, row + 1));
      return this.lm_head.forward(parts.length === 1 ? parts[0]! : parts[0]!.concat(parts.slice(1), 0));
    });
  }

  /**
   * The loss of predicting each token from those before it: labels [t] beside ids, shifted here within each sequence, -100
   * not counted. The sum is divided by `normalizer` (default: the number of labels that count). A scalar; the full logits
   * never exist, and above the last attention only rows that predict a label that counts.
   */
  loss(batch: TokenBatch & LossBatch, options: LossOptions = {}): Tensor {
    requireLabels(batch.labels, batch.ids.length);
    const { tokens, labels } = trainedTokens(batch);
    return scope(() => {
      const { hidden, rows, picked } = this.#hidden(batch, null, tokens);
      if (rows) return sharedCausalLoss(hidden, rows, this.lm_head, { labels, options });
      return rowsLoss(hidden, this.lm_head, picked ? tokens.map((i) => labels[i]!) : labels, options);
    });
  }
}

/** See Phi3ForCausalLM.#hidden. */
interface HiddenStates {
  readonly hidden: Tensor;
  readonly picked: boolean;
  readonly rows?: Int32Array;
}

/** Which logits are made, and what was seen before. */
export interface LogitsOptions {
  /** Only the last token of each sequence. */
  readonly last?: boolean;
  /** Each sequence continues what the cache holds of it; inside noGrad only. Default null. */
  readonly cache?: AttentionCache | null;
}
