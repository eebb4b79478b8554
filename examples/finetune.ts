/**
 * LoRA fine-tuning of Phi-3 with the whole loop in sight: read, adapt, train, measure, save, talk.
 *
 *   node examples/finetune.ts [MODEL_DIR] [CHATS.jsonl] [OUTPUT_DIR]
 *
 * Without arguments: the demo's base model and rows, some ten seconds on two cores.
 *
 * `train` of @lorikeet/trainer is this loop with accumulation, checkpoints, exact resumption and a log; sample-finetune/ uses it.
 */
import { cpu } from '@lorikeet/cpu';
import { type FileSystem, joinPath, nodeFiles, readJson } from '@lorikeet/files';
import { applyLora, disableAdapter, printTrainableParameters, saveAdapter } from '@lorikeet/lora';
import { AdamW, clipGradNorm, schedules, trainableParameters } from '@lorikeet/nn';
import { generate, loadPhi3, type Phi3ForCausalLM, streamText } from '@lorikeet/phi3';
import { type Backend, randomKey, scope, withRandom } from '@lorikeet/tensor';
import { createTokenizer, type Tokenizer } from '@lorikeet/tokenizer';
import {
  type Batch,
  createBatches,
  type Example,
  evaluate,
  evaluationBatches,
  loadChatDataset,
  splitDataset,
  tokenizeRows,
} from '@lorikeet/trainer';

export interface FinetuneOptions {
  readonly files: FileSystem;
  readonly backend: Backend;
  readonly modelDir: string;
  readonly dataPath: string;
  readonly outputDir: string;
  readonly steps?: number;
  readonly batchSize?: number;
  readonly learningRate?: number;
  readonly seed?: number;
  readonly print?: (line: string) => void;
}

/** Fine-tunes and returns what was measured before and after. */
export async function finetune(options: FinetuneOptions) {
  const { files, backend, modelDir, dataPath, outputDir, seed = 0, print = console.log } = options;

  // The tokenizer turns chats into ids, and says which of them the assistant has to produce.
  const tokenizer = createTokenizer({
    tokenizerJson: await readJson(files, joinPath(modelDir, 'tokenizer.json')),
    tokenizerConfig: await readJson(files, joinPath(modelDir, 'tokenizer_config.json')),
  });
  const { rows } = await loadChatDataset(files, dataPath);
  const split = splitDataset(rows, { testSize: 0.1, seed });
  const encode = (part: typeof rows): readonly Example[] =>
    tokenizeRows(part, tokenizer, { lossOn: 'assistant', maxLength: 512 }).examples;
  const [trainSet, testSet] = [encode(split.train), encode(split.test)];

  // Weights stay as they are stored (bf16); the adapter is f32. Everything but the adapter is frozen.
  using model = await loadPhi3(files, modelDir, { backend });
  applyLora(model, { r: 16, loraAlpha: 32, loraDropout: 0.05, targetModules: 'all-linear' }, { key: randomKey(seed) });
  printTrainableParameters(model, print);

  const losses = await trainAdapter(model, trainSet, options);
  const before = await disableAdapter(model, () => measure(model, testSet));
  const after = await measure(model, testSet);
  print(`held-out loss: ${before.evalLoss.toFixed(4)} before, ${after.evalLoss.toFixed(4)} after`);

  // adapter_config.json and adapter_model.safetensors, as PEFT writes and reads them.
  await saveAdapter(files, joinPath(outputDir, 'adapter'), model, { overwrite: true });

  const [question] = split.test[0]!.kind === 'chat' ? split.test[0]!.messages : [];
  const answer = question ? await ask(model, tokenizer, question.content) : '';
  print(`${question?.content}\n-> ${answer}`);
  return { losses, before, after, answer };
}

/** The loop: forward, backward, clip, step. */
async function trainAdapter(model: Phi3ForCausalLM, examples: readonly Example[], options: FinetuneOptions) {
  const { steps = 100, batchSize = 8, learningRate = 4e-3, seed = 0, print = console.log } = options;
  // Padding-free: rows stand one after another in a batch, with their lengths beside them.
  const batches = createBatches(examples, { batchSize, seed });
  const parameters = trainableParameters(model);
  using optimizer = new AdamW(parameters, { lr: learningRate, weightDecay: 0 });
  const losses: number[] = [];
  model.train();
  for (let step = 0; step < steps; step++) {
    const batch = batches.next();
    // Dropout is a function of this key: the same seed and step give the same masks, and so the same bits.
    const { loss, gradients } = withRandom(randomKey(seed, 'dropout', step), () =>
      scope(() => {
        const value = model.loss(batch); // the mean over the batch's trained tokens; full logits never exist
        return { gradients: value.backward(), loss: value.detach() };
      }),
    );
    const { norm, scale } = await clipGradNorm(gradients, parameters, 1);
    optimizer.step(gradients, { gradScale: scale, lrFactor: schedules.cosine(step, steps, Math.ceil(steps * 0.1)) });
    losses.push(await loss.item());
    gradients.dispose();
    loss.dispose();
    if (step % 10 === 0 || step === steps - 1)
      print(`step ${step + 1}/${steps}  loss ${losses.at(-1)!.toFixed(4)}  grad norm ${norm.toFixed(3)}`);
  }
  model.eval();
  return losses;
}

/** Loss, perplexity and token accuracy on rows that were not trained. */
const measure = (model: Phi3ForCausalLM, examples: readonly Example[]) =>
  evaluate(model, evaluationBatches(examples, 8), {
    hidden: (batch: Batch) => model.forward(batch),
    head: (states) => model.lm_head.forward(states),
  });

/** One answer, greedily. */
async function ask(model: Phi3ForCausalLM, tokenizer: Tokenizer, content: string): Promise<string> {
  const prompt = tokenizer.chatIds([{ role: 'user', content }], { addGenerationPrompt: true });
  let text = '';
  const tokens = generate(model, prompt, { maxNewTokens: 64 });
  for await (const piece of streamText(tokens, tokenizer.streamDecoder())) text += piece;
  return text;
}

if (import.meta.main) {
  const demo = joinPath(import.meta.dirname, '../packages/cli/assets/demo');
  const [modelDir = joinPath(demo, 'base'), dataPath = joinPath(demo, 'train.jsonl'), outputDir = 'runs/finetune'] =
    process.argv.slice(2);
  const backend = await cpu({ revectorize: 'auto' }); // twice as fast; a library leaves this V8 flag alone
  const files = nodeFiles();
  await files.makeDirectory(outputDir);
  await finetune({ files, backend, modelDir, dataPath, outputDir });
  await backend.close();
}
